"""UPerNet with CrossFormer-S on ADE20K, 160k iterations of 8 × 2 images.

Published, from ImageNet weights: 62.3 M parameters, 979.5 G multiply-adds, mIoU 47.6,
48.4 at six scales and flipped.

    crossformer train upernet_crossformer_s --pretrained FILE
"""

_base_ = [
    './_base_/models/upernet_crossformer.py',
    './_base_/datasets/ade20k.py',
    './_base_/schedules/adamw_160k.py',
    './_base_/segmentation_runtime.py',
]
