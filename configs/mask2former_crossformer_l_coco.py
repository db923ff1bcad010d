"""Mask2Former with CrossFormer-L on COCO 2017, for instances: 50 epochs (368,750 iterations), 8 × 2 images.

Swin's recipe in MMDetection. Not trained here. Published there with Swin-B: only for
panoptic segmentation.

    crossformer train mask2former_crossformer_l_coco --pretrained FILE
"""

_base_ = './mask2former_crossformer_s_coco.py'

model = dict(
    backbone=dict(arch='l'),
    panoptic_head=dict(in_channels=[128, 256, 512, 1024]),
)
