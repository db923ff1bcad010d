"""The published recipe of ImageNet: 300 epochs of 8 × 128 images, 20 of them warm-up, then a cosine.

Norms, biases and position tables have no weight decay; gradients are clipped, as in MMPretrain's Swin.
"""

optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=1e-3, weight_decay=0.05),
    paramwise_cfg=dict(
        norm_decay_mult=0.0,
        bias_decay_mult=0.0,
        flat_decay_mult=0.0,
        custom_keys=dict(
            relative_position_bias_table=dict(decay_mult=0.0), absolute_pos_embed=dict(decay_mult=0.0)
        ),
    ),
    clip_grad=dict(max_norm=5.0),
)
max_epochs = 300
warmup = 20
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-3, by_epoch=True, end=warmup, convert_to_iter_based=True),
    dict(
        type='CosineAnnealingLR',
        eta_min=1e-5,
        by_epoch=True,
        begin=warmup,
        end=max_epochs,
        T_max=max_epochs - warmup,
        convert_to_iter_based=True,
    ),
]
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=max_epochs, val_interval=1)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
auto_scale_lr = dict(enable=False, base_batch_size=1024)
