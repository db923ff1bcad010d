"""The published recipe of UPerNet: 160,000 iterations of 8 × 2 images, 1500 of warm-up, linear decay to 0."""

optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=6e-5, betas=(0.9, 0.999), weight_decay=0.01),
    paramwise_cfg=dict(norm_decay_mult=0.0),
)
warm_up, max_iters = 1500, 160_000
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-6, begin=0, end=warm_up, by_epoch=False),
    dict(type='PolyLR', power=1.0, eta_min=0.0, begin=warm_up, end=max_iters, by_epoch=False),
]
train_cfg = dict(type='IterBasedTrainLoop', max_iters=max_iters, val_interval=8000)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
auto_scale_lr = dict(enable=False, base_batch_size=16)
