"""MMDetection's Mask R-CNN with FPN, with another backbone."""

_base_ = 'mmdet::_base_/models/mask-rcnn_r50_fpn.py'

model = dict(
    backbone=dict(_delete_=True, type='CrossFormer', arch='s'),
    neck=dict(in_channels=[96, 192, 384, 768]),
)
