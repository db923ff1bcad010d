"""Mask R-CNN with CrossFormer-B, large groups, on COCO 2017, 1x: 12 epochs, 8 × 2 images.

The papers' other setting for dense prediction, for large images: in stages 1 and 2, long distance attention
computes a quarter of the pairs of tokens. The weights fit any setting.

    crossformer train mask_rcnn_crossformer_b_g14 --pretrained FILE
"""

_base_ = ['./mask_rcnn_crossformer_b.py', './_base_/groups.py']

model = dict(backbone=dict(**_base_.large_groups))
