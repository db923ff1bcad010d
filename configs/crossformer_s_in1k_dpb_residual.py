"""CrossFormer-S with residual connections in its dynamic position bias, on ImageNet-1K: an ablation.

Counted: 30.7 M parameters, 4.9 G multiply-adds.

    crossformer train crossformer_s_in1k_dpb_residual
"""

_base_ = './crossformer_s_in1k.py'

model = dict(backbone=dict(position='dpb_residual'))
