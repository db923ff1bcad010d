"""Semantic FPN with CrossFormer-B on ADE20K, 80k iterations of 8 × 2 images.

Published, from ImageNet weights: 55.6 M parameters, 320.1 G multiply-adds, mIoU 48.0.
The multiply-adds fit large groups; the authors' config has standard ones, as here.

    crossformer train fpn_crossformer_b --pretrained FILE
"""

_base_ = './fpn_crossformer_s.py'

model = dict(backbone=dict(arch='b', **_base_.standard_groups))
