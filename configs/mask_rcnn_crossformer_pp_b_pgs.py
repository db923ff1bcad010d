"""Mask R-CNN with CrossFormer++-B, progressive groups, on COCO 2017, 1x: 12 epochs, 8 × 2 images.

The groups and the layout of the released ++ classifiers. The weights fit any setting.

    crossformer train mask_rcnn_crossformer_pp_b_pgs --pretrained FILE
"""

_base_ = ['./mask_rcnn_crossformer_pp_b.py', './_base_/groups.py']

model = dict(backbone=dict(**_base_.progressive_groups))
