"""Mask R-CNN with CrossFormer++-B on COCO 2017, 1x: 12 epochs, 8 × 2 images.

Published, from ImageNet weights: 71.5 M parameters, 408.0 G multiply-adds, box AP 47.7, mask AP 43.2.

    crossformer train mask_rcnn_crossformer_pp_b --pretrained FILE
"""

_base_ = './mask_rcnn_crossformer_s.py'

model = dict(backbone=dict(arch='pp_b'))
