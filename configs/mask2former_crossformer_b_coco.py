"""Mask2Former with CrossFormer-B on COCO 2017, for instances: 50 epochs (368,750 iterations), 8 × 2 images.

Swin's recipe in MMDetection. Not trained here. Published there with Swin-S: box AP 49.3, mask AP 46.1.

    crossformer train mask2former_crossformer_b_coco --pretrained FILE
"""

_base_ = './mask2former_crossformer_s_coco.py'

model = dict(backbone=dict(arch='b'))
