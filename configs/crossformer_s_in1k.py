"""CrossFormer-S on ImageNet-1K, 300 epochs of 8 × 128 images.

Published: 30.7 M parameters, 4.9 G multiply-adds, top-1 82.5.

    crossformer train crossformer_s_in1k
"""

_base_ = [
    './_base_/models/classifier.py',
    './_base_/datasets/imagenet.py',
    './_base_/schedules/adamw_300e.py',
    './_base_/classification_runtime.py',
]
