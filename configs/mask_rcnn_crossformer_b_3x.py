"""Mask R-CNN with CrossFormer-B on COCO 2017, 3x, multi-scale: 36 epochs, 8 × 2 images.

Published, from ImageNet weights: 71.5 M parameters, 398.1 G multiply-adds, box AP 49.8, mask AP 44.5.
The multiply-adds fit large groups; here they are standard.

    crossformer train mask_rcnn_crossformer_b_3x --pretrained FILE
"""

_base_ = './mask_rcnn_crossformer_s_3x.py'

model = dict(backbone=dict(arch='b'))
