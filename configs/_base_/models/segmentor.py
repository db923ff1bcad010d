"""Settings of all segmentors: MMSegmentation's, with another backbone.

If a run is not distributed, MMEngine's runner falls back from SyncBN to BN and logs it.
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
