"""CrossFormer++-L, progressive groups, on ImageNet-1K, 300 epochs of 8 × 128 images.

Published: 92.0 M parameters, 16.6 G multiply-adds, top-1 84.7.

    crossformer train crossformer_pp_l_in1k
"""

_base_ = './crossformer_pp_s_in1k.py'

model = dict(backbone=dict(arch='pp_l'), head=dict(in_channels=1024))
