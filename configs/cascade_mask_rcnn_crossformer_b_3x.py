"""Cascade Mask R-CNN with CrossFormer-B on COCO 2017, 3x, multi-scale: 36 epochs, 8 × 2 images.

No published result.

    python tools/train.py configs/cascade_mask_rcnn_crossformer_b_3x.py --pretrained FILE
"""

_base_ = './cascade_mask_rcnn_crossformer_s_3x.py'

model = dict(backbone=dict(arch='b'))
