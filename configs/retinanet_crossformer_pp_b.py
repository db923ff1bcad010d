"""RetinaNet with CrossFormer++-B on COCO 2017, 1x: 12 epochs, 8 × 2 images.

Published, from ImageNet weights: 62.2 M parameters, 389.0 G multiply-adds, box AP 46.6.

    crossformer train retinanet_crossformer_pp_b --pretrained FILE
"""

_base_ = './retinanet_crossformer_s.py'

model = dict(backbone=dict(arch='pp_b'))
