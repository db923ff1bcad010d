"""Mask R-CNN with CrossFormer-L on COCO 2017, 1x: 12 epochs, 8 × 2 images.

No published result.

    crossformer train mask_rcnn_crossformer_l --pretrained FILE
"""

_base_ = './mask_rcnn_crossformer_s.py'

model = dict(
    backbone=dict(arch='l'),
    neck=dict(in_channels=[128, 256, 512, 1024]),
)
