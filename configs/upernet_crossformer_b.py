"""UPerNet with CrossFormer-B on ADE20K, 160k iterations of 8 × 2 images.

Published, from ImageNet weights: 83.6 M parameters, 1089.7 G multiply-adds, mIoU 49.7,
50.6 at six scales and flipped.

    crossformer train upernet_crossformer_b --pretrained FILE
"""

_base_ = './upernet_crossformer_s.py'

model = dict(backbone=dict(arch='b'))
