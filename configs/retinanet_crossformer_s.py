"""RetinaNet with CrossFormer-S on COCO 2017, 1x: 12 epochs, 8 × 2 images.

Published, from ImageNet weights: 40.8 M parameters, 282.0 G multiply-adds, box AP 44.4.

    crossformer train retinanet_crossformer_s --pretrained FILE
"""

_base_ = [
    './_base_/models/retinanet_crossformer.py',
    './_base_/datasets/coco_detection.py',
    './_base_/schedules/adamw_1x.py',
    './_base_/detection_runtime.py',
]
