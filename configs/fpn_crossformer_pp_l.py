"""Semantic FPN with CrossFormer++-L on ADE20K, 80k iterations of 8 × 2 images.

No published result.

    crossformer train fpn_crossformer_pp_l --pretrained FILE
"""

_base_ = './fpn_crossformer_s.py'

model = dict(
    backbone=dict(arch='pp_l', **_base_.standard_groups),
    neck=dict(in_channels=[128, 256, 512, 1024]),
)
