"""UPerNet with CrossFormer++-B on ADE20K, 160k iterations of 8 × 2 images.

Published, from ImageNet weights: 83.7 M parameters, 1089.8 G multiply-adds, mIoU 50.7,
51.0 at six scales and flipped.

    crossformer train upernet_crossformer_pp_b --pretrained FILE
"""

_base_ = './upernet_crossformer_s.py'

model = dict(backbone=dict(arch='pp_b'))
