"""Semantic FPN with CrossFormer-T on ADE20K, 80k iterations of 8 × 2 images.

No published result.

    crossformer train fpn_crossformer_t --pretrained FILE
"""

_base_ = './fpn_crossformer_s.py'

model = dict(
    backbone=dict(arch='t', **_base_.standard_groups),
    neck=dict(in_channels=[64, 128, 256, 512]),
)
