"""Mask R-CNN with CrossFormer-S, large groups, on COCO 2017, 1x: 12 epochs, 8 × 2 images.

The published multiply-adds of 1x fit this setting; see docs/model_zoo.md. Weights are those of any setting.

    python tools/train.py configs/mask_rcnn_crossformer_s_g14.py --pretrained FILE
"""

_base_ = './mask_rcnn_crossformer_s.py'

model = dict(backbone=dict(group_sizes=[14, 14, 7, 7], intervals=[16, 8, 2, 1]))
