"""Mask2Former with CrossFormer-S on ADE20K: 160k iterations of 8 × 2 images.

Swin's recipe in MMSegmentation. Not trained here. Published there with Swin-T: mIoU 48.66.

    crossformer train mask2former_crossformer_s_ade20k --pretrained FILE
"""

_base_ = [
    './_base_/models/mask2former_semantic.py',
    './_base_/datasets/ade20k.py',
    './_base_/schedules/mask2former_160k.py',
    './_base_/segmentation_runtime.py',
]

custom_imports = dict(imports=['crossformer_mm', 'mmdet.models'])
train_pipeline = [*_base_.train_pipeline]
train_pipeline[2] = dict(
    type='RandomChoiceResize',
    scales=[512 * tenths // 10 for tenths in range(5, 21)],
    resize_type='ResizeShortestEdge',
    max_size=2048,
)
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
