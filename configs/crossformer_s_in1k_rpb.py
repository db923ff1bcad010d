"""CrossFormer-S with a learned table of relative position biases, on ImageNet-1K: an ablation.

Counted: 30.7 M parameters, 4.9 G multiply-adds.

    crossformer train crossformer_s_in1k_rpb
"""

_base_ = './crossformer_s_in1k.py'

model = dict(backbone=dict(position='rpb'))
