"""UPerNet with CrossFormer-T on ADE20K, 160k iterations of 8 × 2 images.

No published result.

    crossformer train upernet_crossformer_t --pretrained FILE
"""

_base_ = './upernet_crossformer_s.py'

model = dict(
    backbone=dict(arch='t'),
    decode_head=dict(in_channels=[64, 128, 256, 512]),
    auxiliary_head=dict(in_channels=256),
)
