"""Mask R-CNN with a narrow CrossFormer on generated shapes, from scratch, in minutes on two cores.

12 epochs on 120 images of 192×192. To generate them, train and evaluate:

    python tools/demo.py
"""

_base_ = [
    './_base_/models/mask_rcnn_crossformer.py',
    './_base_/datasets/coco_instance.py',
    './_base_/detection_runtime.py',
]

# All parts are an eighth to a quarter of their usual width; the anchors are for objects of 20 to 85 pixels.
width = 64
norm = dict(type='GN', num_groups=8)  # BN would need pretrained statistics or larger batches
model = dict(
    backbone=dict(arch=dict(_delete_=True, embed_dims=32, depths=(1, 1, 4, 2), num_heads=(1, 2, 4, 8))),
    neck=dict(in_channels=[32, 64, 128, 256], out_channels=width, norm_cfg=norm),
    rpn_head=dict(in_channels=width, feat_channels=width, anchor_generator=dict(scales=[4])),
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=width, roi_layer=dict(sampling_ratio=2)),
        bbox_head=dict(in_channels=width, fc_out_channels=256),
        mask_roi_extractor=dict(out_channels=width, roi_layer=dict(sampling_ratio=2)),
        mask_head=dict(in_channels=width, conv_out_channels=width, num_convs=2, norm_cfg=norm),
    ),
    train_cfg=dict(
        rpn=dict(sampler=dict(num=64)),
        rpn_proposal=dict(nms_pre=400, max_per_img=200),
        rcnn=dict(sampler=dict(num=48, pos_fraction=0.5)),
    ),
    test_cfg=dict(rpn=dict(nms_pre=400, max_per_img=200)),
)

train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackDetInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(192, 192)),
    *_base_.test_pipeline[2:],
]
no_workers = dict(num_workers=0, persistent_workers=False)
train_dataloader = dict(batch_size=4, **no_workers, dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(batch_size=8, **no_workers, dataset=dict(pipeline=test_pipeline))
test_dataloader = dict(batch_size=8, **no_workers, dataset=dict(pipeline=test_pipeline))

max_epochs = 12
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=max_epochs, val_interval=3)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=1e-3, weight_decay=0.05),
    clip_grad=dict(max_norm=5.0),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=50),
    dict(type='CosineAnnealingLR', by_epoch=True, T_max=max_epochs, convert_to_iter_based=True),
]
default_hooks = dict(logger=dict(interval=8), checkpoint=dict(max_keep_ckpts=1, save_best=None))
