"""CrossFormer-S with an absolute position embedding, on ImageNet-1K: an ablation.

Counted: 30.9 M parameters, 4.9 G multiply-adds.

    crossformer train crossformer_s_in1k_ape
"""

_base_ = './crossformer_s_in1k.py'

model = dict(backbone=dict(position='ape'))
