"""RetinaNet with CrossFormer-S, large groups, on COCO 2017, 1x: 12 epochs, 8 × 2 images.

The papers' other setting for dense prediction, for large images: in stages 1 and 2, long distance attention
computes a quarter of the pairs of tokens. Weights are those of any setting.

    python tools/train.py configs/retinanet_crossformer_s_g14.py --pretrained FILE
"""

_base_ = './retinanet_crossformer_s.py'

model = dict(backbone=dict(group_sizes=[14, 14, 7, 7], intervals=[16, 8, 2, 1]))
