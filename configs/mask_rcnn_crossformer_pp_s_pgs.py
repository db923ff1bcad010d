"""Mask R-CNN with CrossFormer++-S, progressive groups, on COCO 2017, 1x: 12 epochs, 8 × 2 images.

The groups and the layout of the released ++ classifiers. Weights are those of any setting.

    python tools/train.py configs/mask_rcnn_crossformer_pp_s_pgs.py --pretrained FILE
"""

_base_ = ['./mask_rcnn_crossformer_pp_s.py', './_base_/groups.py']

model = dict(backbone=dict(**_base_.progressive_groups))
