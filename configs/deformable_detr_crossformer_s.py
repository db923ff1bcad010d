"""Deformable DETR with CrossFormer-S on COCO 2017: 50 epochs, 16 × 2 images.

MMDetection's recipe. Not trained here. Published there with ResNet-50: box AP 44.3; not with Swin.

    crossformer train deformable_detr_crossformer_s --pretrained FILE
"""

_base_ = 'mmdet::deformable_detr/deformable-detr_r50_16xb2-50e_coco.py'

custom_imports = dict(imports=['crossformer_mm'], allow_failed_imports=False)
model = dict(
    backbone=dict(_delete_=True, type='CrossFormer', arch='s', out_indices=(1, 2, 3)),
    neck=dict(in_channels=[192, 384, 768]),
)
val_evaluator = dict(type='CocoReport')
test_evaluator = dict(type='CocoReport', classwise=True)
default_hooks = dict(checkpoint=dict(max_keep_ckpts=3, save_best='coco/bbox_mAP', rule='greater'))
custom_hooks = [dict(type='CurvesHook')]
