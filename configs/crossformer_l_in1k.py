"""CrossFormer-L on ImageNet-1K, 300 epochs of 8 × 128 images.

Published: 92.0 M parameters, 16.1 G multiply-adds, top-1 84.0.

    crossformer train crossformer_l_in1k
"""

_base_ = './crossformer_s_in1k.py'

model = dict(backbone=dict(arch='l'), head=dict(in_channels=1024))
