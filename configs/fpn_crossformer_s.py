"""Semantic FPN with CrossFormer-S on ADE20K, 80k iterations of 8 × 2 images.

Published, from ImageNet weights: 34.3 M parameters, 209.8 G multiply-adds, mIoU 46.4,
with large groups, as here.

    crossformer train fpn_crossformer_s --pretrained FILE
"""

_base_ = [
    './_base_/groups.py',
    './_base_/models/semantic_fpn_crossformer.py',
    './_base_/datasets/ade20k_multiples_of_32.py',
    './_base_/schedules/adamw_80k.py',
    './_base_/segmentation_runtime.py',
]

model = dict(backbone=dict(**_base_.large_groups))
