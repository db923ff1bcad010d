"""MMDetection's RetinaNet with FPN from stride 8, with another backbone."""

_base_ = 'mmdet::_base_/models/retinanet_r50_fpn.py'

model = dict(
    backbone=dict(_delete_=True, type='CrossFormer', arch='s'),
    neck=dict(in_channels=[96, 192, 384, 768]),
)
