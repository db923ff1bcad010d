"""CrossFormer++-H, progressive groups, on ImageNet-1K, 300 epochs of 8 × 128 images.

Published: 96.0 M parameters, 21.8 G multiply-adds, top-1 84.9.

    crossformer train crossformer_pp_h_in1k
"""

_base_ = './crossformer_pp_s_in1k.py'

model = dict(backbone=dict(arch='pp_h'), head=dict(in_channels=1024))
