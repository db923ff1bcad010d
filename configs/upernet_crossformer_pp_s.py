"""UPerNet with CrossFormer++-S on ADE20K, 160k iterations of 8 × 2 images.

Published, from ImageNet weights: 53.1 M parameters, 963.5 G multiply-adds, mIoU 49.4,
50.8 at six scales and flipped.

    crossformer train upernet_crossformer_pp_s --pretrained FILE
"""

_base_ = './upernet_crossformer_s.py'

model = dict(
    backbone=dict(arch='pp_s'),
    decode_head=dict(in_channels=[64, 128, 256, 512]),
    auxiliary_head=dict(in_channels=256),
)
