"""DINO with CrossFormer-S, 4 scales, on COCO 2017: 12 epochs, 8 × 2 images.

MMDetection's recipe. Not trained here. Published by detrex with Swin-T: box AP 51.3.

    crossformer train dino_crossformer_s --pretrained FILE
"""

_base_ = 'mmdet::dino/dino-4scale_r50_8xb2-12e_coco.py'

custom_imports = dict(imports=['crossformer_mm'], allow_failed_imports=False)
model = dict(
    backbone=dict(_delete_=True, type='CrossFormer', arch='s', out_indices=(1, 2, 3)),
    neck=dict(in_channels=[192, 384, 768]),
)
val_evaluator = dict(type='CocoReport')
test_evaluator = dict(type='CocoReport', classwise=True)
default_hooks = dict(checkpoint=dict(max_keep_ckpts=3, save_best='coco/bbox_mAP', rule='greater'))
custom_hooks = [dict(type='CurvesHook')]
