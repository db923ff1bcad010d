"""ADE20K, tested on images whose sides are multiples of 32, as Semantic FPN was published."""

_base_ = './ade20k.py'

align = dict(type='ResizeToMultiple', size_divisor=32)
test_pipeline = [
    dict(type='LoadNamedImage'),
    dict(type='Resize', scale=(2048, 512), keep_ratio=True),
    align,
    dict(type='LoadAnnotations'),
    dict(type='PackSegInputs'),
]
scales = [(1024, 256), (1536, 384), (2048, 512), (2560, 640), (3072, 768), (3584, 896)]
tta_pipeline = [
    dict(type='LoadNamedImage'),
    dict(
        type='TestTimeAug',
        transforms=[
            [dict(type='Resize', scale=scale, keep_ratio=True) for scale in scales],
            [align],
            [dict(type='RandomFlip', prob=prob, direction='horizontal') for prob in (0.0, 1.0)],
            [dict(type='LoadAnnotations')],
            [dict(type='PackSegInputs')],
        ],
    ),
]
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = dict(dataset=dict(pipeline=test_pipeline))
