"""Mask R-CNN with CrossFormer-S on COCO 2017, 1x: 12 epochs, 8 × 2 images.

Published, from ImageNet weights: 50.2 M parameters, 301.0 G multiply-adds, box AP 45.4, mask AP 41.4.

    crossformer train mask_rcnn_crossformer_s --pretrained FILE
"""

_base_ = [
    './_base_/models/mask_rcnn_crossformer.py',
    './_base_/datasets/coco_instance.py',
    './_base_/schedules/adamw_1x.py',
    './_base_/detection_runtime.py',
]
