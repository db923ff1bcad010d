"""Semantic FPN with a narrow CrossFormer on generated shapes, from scratch, in minutes on two cores.

1500 iterations on 480 images of about 120×120. To generate them, train and evaluate:

    python tools/demo.py semantic_fpn
"""

_base_ = [
    './_base_/models/semantic_fpn_crossformer.py',
    './_base_/datasets/ade20k_multiples_of_32.py',
    './_base_/segmentation_runtime.py',
]

# All parts are an eighth to a quarter of their usual width.
width = 64
norm = dict(type='GN', num_groups=8)  # BN would need pretrained statistics or larger batches
crop_size = (112, 112)
model = dict(
    data_preprocessor=dict(size=crop_size),
    backbone=dict(arch=dict(_delete_=True, embed_dims=32, depths=(1, 1, 4, 2), num_heads=(1, 2, 4, 8))),
    neck=dict(in_channels=[32, 64, 128, 256], out_channels=width),
    decode_head=dict(in_channels=[width] * 4, channels=width, dropout_ratio=0, norm_cfg=norm),
)

train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'),
    dict(type='RandomCrop', crop_size=crop_size),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackSegInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='ResizeToMultiple', size_divisor=32),
    dict(type='LoadAnnotations'),
    dict(type='PackSegInputs'),
]
train_dataloader = dict(
    batch_size=4, num_workers=0, persistent_workers=False, dataset=dict(pipeline=train_pipeline)
)
val_dataloader = dict(num_workers=0, persistent_workers=False, dataset=dict(pipeline=test_pipeline))
test_dataloader = dict(num_workers=0, persistent_workers=False, dataset=dict(pipeline=test_pipeline))

randomness = dict(seed=0)  # the demo checks the score, which must not depend on chance
max_iters = 1500
train_cfg = dict(type='IterBasedTrainLoop', max_iters=max_iters, val_interval=300)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=1e-3, weight_decay=0.05),
    clip_grad=dict(max_norm=5.0),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=50),
    dict(type='CosineAnnealingLR', by_epoch=False, T_max=max_iters),
]
default_hooks = dict(
    logger=dict(interval=20),
    checkpoint=dict(interval=max_iters, max_keep_ckpts=1, save_best=None),
)
