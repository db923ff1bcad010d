"""What every segmentor shares, MMSegmentation's but for the backbone.

Where a run is not distributed, MMEngine's runner turns SyncBN into BN, and says so on the log.
"""

data_preprocessor = dict(
    type='SegDataPreProcessor',
    mean=[123.675, 116.28, 103.53],
    std=[58.395, 57.12, 57.375],
    bgr_to_rgb=True,
    pad_val=0,
    seg_pad_val=255,
    size=(512, 512),
)
norm_cfg = dict(type='SyncBN', requires_grad=True)
model = dict(
    type='EncoderDecoder',
    data_preprocessor=data_preprocessor,
    backbone=dict(type='CrossFormer', arch='s'),
    train_cfg=dict(),
    test_cfg=dict(mode='whole'),
)
