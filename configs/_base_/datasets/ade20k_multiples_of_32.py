"""ADE20K, tested on images whose sides are multiples of 32, as published for Semantic FPN."""

_base_ = './ade20k.py'

align = dict(type='ResizeToMultiple', size_divisor=32)
test_pipeline = [*_base_.test_pipeline[:2], align, *_base_.test_pipeline[2:]]
views = _base_.tta_pipeline[1].transforms
tta_pipeline = [
    _base_.tta_pipeline[0],
    dict(type='TestTimeAug', transforms=[views[0], [align], *views[1:]]),
]
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = dict(dataset=dict(pipeline=test_pipeline))
