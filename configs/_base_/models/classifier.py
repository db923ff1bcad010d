"""The published classifier: the backbone, a norm, the mean over positions, a linear layer; 1000 classes.

Training mixes pairs of images (Mixup or CutMix, one of them for each batch) and smooths labels by 0.1.
"""

model = dict(
    type='ImageClassifier',
    data_preprocessor=dict(
        type='ClsDataPreprocessor',
        num_classes=1000,
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        to_rgb=True,
    ),
    backbone=dict(type='CrossFormer', arch='s', out_indices=(3,)),
    head=dict(
        type='CrossFormerClsHead',
        num_classes=1000,
        in_channels=768,
        loss=dict(type='LabelSmoothLoss', label_smooth_val=0.1, mode='original'),
    ),
    train_cfg=dict(augments=[dict(type='Mixup', alpha=0.8), dict(type='CutMix', alpha=1.0)]),
)
