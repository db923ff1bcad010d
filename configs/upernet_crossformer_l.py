"""UPerNet with CrossFormer-L on ADE20K, 160k iterations of 8 × 2 images.

Published, from ImageNet weights: 125.5 M parameters, 1257.8 G multiply-adds, mIoU 50.4,
51.4 at six scales and flipped.

    crossformer train upernet_crossformer_l --pretrained FILE
"""

_base_ = './upernet_crossformer_s.py'

model = dict(
    backbone=dict(arch='l'),
    decode_head=dict(in_channels=[128, 256, 512, 1024]),
    auxiliary_head=dict(in_channels=512),
)
