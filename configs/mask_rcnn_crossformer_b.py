"""Mask R-CNN with CrossFormer-B on COCO 2017, 1x: 12 epochs, 8 × 2 images.

Published, from ImageNet weights: 71.5 M parameters, 407.9 G multiply-adds, box AP 47.2, mask AP 42.7.

    crossformer train mask_rcnn_crossformer_b --pretrained FILE
"""

_base_ = './mask_rcnn_crossformer_s.py'

model = dict(backbone=dict(arch='b'))
