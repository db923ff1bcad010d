"""RetinaNet with CrossFormer++-S on COCO 2017, 1x: 12 epochs, 8 × 2 images.

Published, from ImageNet weights: box AP 45.1; the parameters and multiply-adds are misprinted there.

    crossformer train retinanet_crossformer_pp_s --pretrained FILE
"""

_base_ = './retinanet_crossformer_s.py'

model = dict(
    backbone=dict(arch='pp_s'),
    neck=dict(in_channels=[64, 128, 256, 512]),
)
