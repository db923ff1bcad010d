"""SegFormer's head on CrossFormer-S, on ADE20K: 160k iterations of 8 × 2 images.

SegFormer's recipe in MMSegmentation. Not trained here. Published with MiT-B2: mIoU 45.58; not with Swin.

    crossformer train segformer_crossformer_s --pretrained FILE
"""

_base_ = [
    './_base_/models/segmentor.py',
    './_base_/datasets/ade20k.py',
    './_base_/schedules/adamw_160k.py',
    './_base_/segmentation_runtime.py',
]

model = dict(
    decode_head=dict(
        type='SegformerHead',
        in_channels=[96, 192, 384, 768],
        in_index=[0, 1, 2, 3],
        channels=256,
        dropout_ratio=0.1,
        num_classes=150,
        norm_cfg=_base_.norm_cfg,
        align_corners=False,
        loss_decode=dict(type='CrossEntropyLoss', use_sigmoid=False, loss_weight=1.0),
    ),
)
optim_wrapper = dict(
    paramwise_cfg=dict(
        custom_keys={'attn.pos.': dict(decay_mult=0.0), 'decode_head': dict(lr_mult=10.0)},
    )
)
