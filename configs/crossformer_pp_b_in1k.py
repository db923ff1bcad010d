"""CrossFormer++-B, progressive groups, on ImageNet-1K, 300 epochs of 8 × 128 images.

Published: 52.0 M parameters, 9.5 G multiply-adds, top-1 84.2.

    crossformer train crossformer_pp_b_in1k
"""

_base_ = './crossformer_pp_s_in1k.py'

model = dict(backbone=dict(arch='pp_b'), head=dict(in_channels=768))
