"""DINO with CrossFormer-B, 4 scales, on COCO 2017: 12 epochs, 8 × 2 images.

MMDetection's recipe. Not trained here. Published by detrex with Swin-S: box AP 53.0.

    crossformer train dino_crossformer_b --pretrained FILE
"""

_base_ = './dino_crossformer_s.py'

model = dict(backbone=dict(arch='b'))
