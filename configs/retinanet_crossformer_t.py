"""RetinaNet with CrossFormer-T on COCO 2017, 1x: 12 epochs, 8 × 2 images.

No published result.

    crossformer train retinanet_crossformer_t --pretrained FILE
"""

_base_ = './retinanet_crossformer_s.py'

model = dict(
    backbone=dict(arch='t'),
    neck=dict(in_channels=[64, 128, 256, 512]),
)
