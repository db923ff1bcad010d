"""DINO with CrossFormer-L, 4 scales, on COCO 2017: 12 epochs, 8 × 2 images.

MMDetection's recipe. Not trained here. Published by detrex with Swin-B: box AP 55.8,
from ImageNet-22K weights at 384×384.

    crossformer train dino_crossformer_l --pretrained FILE
"""

_base_ = './dino_crossformer_s.py'

model = dict(
    backbone=dict(arch='l'),
    neck=dict(in_channels=[256, 512, 1024]),
)
