"""CrossFormer++-S, progressive groups, on ImageNet-1K, 300 epochs of 8 × 128 images.

Published: 23.3 M parameters, 4.9 G multiply-adds, top-1 83.2.

    crossformer train crossformer_pp_s_in1k
"""

_base_ = ['./crossformer_s_in1k.py', './_base_/groups.py']

model = dict(
    backbone=dict(arch='pp_s', **_base_.progressive_groups),
    head=dict(in_channels=512),
)
