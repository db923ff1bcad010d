"""Mask2Former with CrossFormer-L on ADE20K: 160k iterations of 8 × 2 images, crops of 640×640.

Swin's recipe in MMSegmentation. Not trained here. Published there with Swin-B: mIoU 52.44,
from ImageNet-1K weights at 384×384.

    crossformer train mask2former_crossformer_l_ade20k --pretrained FILE
"""

_base_ = './mask2former_crossformer_s_ade20k.py'

crop_size = (640, 640)
model = dict(
    data_preprocessor=dict(size=crop_size),
    backbone=dict(arch='l'),
    decode_head=dict(in_channels=[128, 256, 512, 1024]),
)
train_pipeline = [*_base_.train_pipeline]
train_pipeline[2] = dict(
    train_pipeline[2], scales=[640 * tenths // 10 for tenths in range(5, 21)], max_size=2560
)
train_pipeline[3] = dict(train_pipeline[3], crop_size=crop_size)
test_pipeline = [*_base_.test_pipeline]
test_pipeline[1] = dict(test_pipeline[1], scale=(2560, 640))
scales = [(4 * side, side) for side in (320, 480, 640, 800, 960, 1120)]
tta_pipeline = [*_base_.tta_pipeline]
views = tta_pipeline[1].transforms
tta_pipeline[1] = dict(
    type='TestTimeAug',
    transforms=[[dict(type='Resize', scale=scale, keep_ratio=True) for scale in scales], *views[1:]],
)
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = dict(dataset=dict(pipeline=test_pipeline))
