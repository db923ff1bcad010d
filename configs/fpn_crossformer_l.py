"""Semantic FPN with CrossFormer-L on ADE20K, 80k iterations of 8 × 2 images.

Published, from ImageNet weights: 95.4 M parameters, 482.7 G multiply-adds, mIoU 49.1,
with large groups, as here.

    crossformer train fpn_crossformer_l --pretrained FILE
"""

_base_ = './fpn_crossformer_s.py'

model = dict(
    backbone=dict(arch='l'),
    neck=dict(in_channels=[128, 256, 512, 1024]),
)
