"""Semantic FPN with CrossFormer++-B on ADE20K, 80k iterations of 8 × 2 images.

Published, from ImageNet weights: 55.6 M parameters, 331.1 G multiply-adds, mIoU 48.6.

    crossformer train fpn_crossformer_pp_b --pretrained FILE
"""

_base_ = './fpn_crossformer_s.py'

model = dict(backbone=dict(arch='pp_b', **_base_.standard_groups))
