"""Cascade Mask R-CNN with CrossFormer-B on COCO 2017, 3x, multi-scale: 36 epochs, 8 × 2 images.

No published result.

    crossformer train cascade_mask_rcnn_crossformer_b_3x --pretrained FILE
"""

_base_ = './cascade_mask_rcnn_crossformer_s_3x.py'

model = dict(backbone=dict(arch='b'))
