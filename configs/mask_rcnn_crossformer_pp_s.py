"""Mask R-CNN with CrossFormer++-S on COCO 2017, 1x: 12 epochs, 8 × 2 images.

Published, from ImageNet weights: 43.0 M parameters, 287.4 G multiply-adds, box AP 46.4, mask AP 42.1.

    crossformer train mask_rcnn_crossformer_pp_s --pretrained FILE
"""

_base_ = './mask_rcnn_crossformer_s.py'

model = dict(
    backbone=dict(arch='pp_s'),
    neck=dict(in_channels=[64, 128, 256, 512]),
)
