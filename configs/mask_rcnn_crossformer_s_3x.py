"""Mask R-CNN with CrossFormer-S on COCO 2017, 3x, multi-scale: 36 epochs, 8 × 2 images.

Published, from ImageNet weights: 50.2 M parameters, 291.1 G multiply-adds, box AP 48.7, mask AP 43.9.
The multiply-adds fit large groups; here they are standard.

    crossformer train mask_rcnn_crossformer_s_3x --pretrained FILE
"""

_base_ = [
    './_base_/models/mask_rcnn_crossformer.py',
    './_base_/datasets/coco_instance_multiscale.py',
    './_base_/schedules/adamw_3x.py',
    './_base_/detection_runtime.py',
]
