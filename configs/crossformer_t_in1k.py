"""CrossFormer-T on ImageNet-1K, 300 epochs of 8 × 128 images.

Published: 27.8 M parameters, 2.9 G multiply-adds, top-1 81.5.

    crossformer train crossformer_t_in1k
"""

_base_ = './crossformer_s_in1k.py'

model = dict(backbone=dict(arch='t'), head=dict(in_channels=512))
