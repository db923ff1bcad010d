"""Mask2Former with CrossFormer-B on ADE20K: 160k iterations of 8 × 2 images.

Swin's recipe in MMSegmentation. Not trained here. Published there with Swin-S: mIoU 51.24.

    crossformer train mask2former_crossformer_b_ade20k --pretrained FILE
"""

_base_ = './mask2former_crossformer_s_ade20k.py'

model = dict(backbone=dict(arch='b'))
