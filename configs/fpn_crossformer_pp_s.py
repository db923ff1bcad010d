"""Semantic FPN with CrossFormer++-S on ADE20K, 80k iterations of 8 × 2 images.

Published, from ImageNet weights: 27.1 M parameters, 199.5 G multiply-adds, mIoU 47.4.
The multiply-adds fit large groups; here they are standard.

    crossformer train fpn_crossformer_pp_s --pretrained FILE
"""

_base_ = './fpn_crossformer_s.py'

model = dict(
    backbone=dict(arch='pp_s', **_base_.standard_groups),
    neck=dict(in_channels=[64, 128, 256, 512]),
)
