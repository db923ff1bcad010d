"""Mask2Former with CrossFormer-S on COCO 2017, for instances: 50 epochs (368,750 iterations), 8 × 2 images.

Swin's recipe in MMDetection. Not trained here. Published there with Swin-T: box AP 47.7, mask AP 44.7.

    crossformer train mask2former_crossformer_s_coco --pretrained FILE
"""

_base_ = ['mmdet::mask2former/mask2former_r50_8xb2-lsj-50e_coco.py', './_base_/slow_backbone.py']

custom_imports = dict(imports=['crossformer_mm'], allow_failed_imports=False)
model = dict(
    backbone=dict(_delete_=True, type='CrossFormer', arch='s'),
    panoptic_head=dict(in_channels=[96, 192, 384, 768]),
)
optim_wrapper = dict(paramwise_cfg=dict(custom_keys=_base_.slow_backbone))
val_evaluator = dict(type='CocoReport')
test_evaluator = dict(type='CocoReport', classwise=True)
default_hooks = dict(checkpoint=dict(save_best='coco/segm_mAP', rule='greater'))
custom_hooks = [dict(type='CurvesHook')]
