"""UPerNet with CrossFormer++-L on ADE20K, 160k iterations of 8 × 2 images.

No published result.

    crossformer train upernet_crossformer_pp_l --pretrained FILE
"""

_base_ = './upernet_crossformer_s.py'

model = dict(
    backbone=dict(arch='pp_l'),
    decode_head=dict(in_channels=[128, 256, 512, 1024]),
    auxiliary_head=dict(in_channels=512),
)
