"""A narrow CrossFormer as a classifier of generated shapes, from scratch, in minutes on two cores.

3 epochs on 6400 images of 64×64, one shape on each. To generate them, train and evaluate:

    python tools/demo.py classifier
"""

_base_ = [
    './_base_/models/classifier.py',
    './_base_/datasets/imagenet.py',
    './_base_/classification_runtime.py',
]

num_classes = 3
model = dict(
    data_preprocessor=dict(num_classes=num_classes),
    backbone=dict(arch=dict(_delete_=True, embed_dims=32, depths=(1, 1, 2, 1), num_heads=(1, 2, 4, 8))),
    head=dict(num_classes=num_classes, in_channels=256),
    train_cfg=None,
)

load = [dict(type='LoadImageFromFile'), dict(type='Resize', scale=64)]
train_pipeline = [*load, dict(type='RandomFlip', prob=0.5), dict(type='PackInputs')]
test_pipeline = [*load, dict(type='PackInputs')]
views = _base_.tta_pipeline[1].transforms[2:]  # without resizing and cropping
tta_pipeline = [*load, dict(type='TestTimeAug', transforms=views)]
no_workers = dict(num_workers=0, persistent_workers=False)
train_dataloader = dict(batch_size=32, **no_workers, dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(batch_size=64, **no_workers, dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader

randomness = dict(seed=0)  # the demo checks the accuracy, which must not depend on chance
max_epochs = 3
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=max_epochs, val_interval=1)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=1.5e-3, weight_decay=0.05),
    clip_grad=dict(max_norm=5.0),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=50),
    dict(type='CosineAnnealingLR', by_epoch=True, T_max=max_epochs, convert_to_iter_based=True),
]
default_hooks = dict(logger=dict(interval=10), checkpoint=dict(max_keep_ckpts=1, save_best=None))
