"""CrossFormer-S with a cross-scale embedding in stage 1 alone, on ImageNet-1K: an ablation.

Counted: 28.3 M parameters, 4.6 G multiply-adds.

    crossformer train crossformer_s_in1k_cel_stage1
"""

_base_ = './crossformer_s_in1k.py'

model = dict(backbone=dict(cross_scale_stages=1))
