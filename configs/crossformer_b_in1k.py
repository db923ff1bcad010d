"""CrossFormer-B on ImageNet-1K, 300 epochs of 8 × 128 images.

Published: 52.0 M parameters, 9.2 G multiply-adds, top-1 83.4.

    crossformer train crossformer_b_in1k
"""

_base_ = './crossformer_s_in1k.py'

model = dict(backbone=dict(arch='b'))
