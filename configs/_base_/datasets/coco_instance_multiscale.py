"""COCO 2017 instance segmentation, with the multi-scale training of Swin's 3x recipe.

Half of the images are resized to a short side of 480 to 800; the others are resized, cropped, and resized.
"""

_base_ = './coco_instance.py'

resize = dict(type='RandomChoiceResize', keep_ratio=True)
short_sides = [(side, 1333) for side in range(480, 801, 32)]
whole = [dict(**resize, scales=short_sides)]
cropped = [
    dict(**resize, scales=[(400, 1333), (500, 1333), (600, 1333)]),
    dict(type='RandomCrop', crop_type='absolute_range', crop_size=(384, 600), allow_negative_crop=True),
    dict(**resize, scales=short_sides),
]
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    dict(type='RandomFlip', prob=0.5),
    dict(type='RandomChoice', transforms=[whole, cropped]),
    dict(type='PackDetInputs'),
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
