"""RTMDet-Ins with CrossFormer-S on COCO 2017, at 640×640: 100 epochs, 4 × 32 images.

Swin's recipe of RTMDet in MMDetection. Not trained here. Published there: RTMDet-L, which has
no masks, with Swin-B: box AP 52.4; RTMDet-Ins-L with its own backbone: box AP 51.2, mask AP 43.7.

    crossformer train rtmdet_ins_crossformer_s --pretrained FILE
"""

_base_ = 'mmdet::rtmdet/rtmdet-ins_l_8xb32-300e_coco.py'

custom_imports = dict(imports=['crossformer_mm'], allow_failed_imports=False)
norm_cfg = dict(type='GN', num_groups=32)
model = dict(
    data_preprocessor=dict(
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True,
        pad_size_divisor=32,  # the neck needs it
        pad_mask=True,
    ),
    backbone=dict(_delete_=True, type='CrossFormer', arch='s', out_indices=(1, 2, 3)),
    neck=dict(in_channels=[192, 384, 768], norm_cfg=norm_cfg),
    bbox_head=dict(norm_cfg=norm_cfg),
)

max_epochs, stage2_num_epochs, base_lr = 100, 10, 0.001  # no mosaics in stage 2
train_cfg = dict(max_epochs=max_epochs, dynamic_intervals=[(max_epochs - stage2_num_epochs, 1)])
optim_wrapper = dict(
    optimizer=dict(lr=base_lr),
    paramwise_cfg=dict(custom_keys={'attn.pos.': dict(decay_mult=0.0)}),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-5, by_epoch=False, begin=0, end=1000),
    dict(
        type='CosineAnnealingLR',
        eta_min=base_lr * 0.05,
        begin=max_epochs // 2,
        end=max_epochs,
        T_max=max_epochs // 2,
        by_epoch=True,
        convert_to_iter_based=True,
    ),
]
auto_scale_lr = dict(base_batch_size=128)
ann_file = _base_.val_evaluator.ann_file
val_evaluator = dict(_delete_=True, type='CocoReport', ann_file=ann_file)
test_evaluator = dict(_delete_=True, type='CocoReport', ann_file=ann_file, classwise=True)
default_hooks = dict(checkpoint=dict(save_best='coco/segm_mAP', rule='greater'))
custom_hooks = [
    _base_.custom_hooks[0],
    dict(_base_.custom_hooks[1], switch_epoch=max_epochs - stage2_num_epochs),
    dict(type='CurvesHook'),
]
