"""CrossFormer-S with one kernel per embedding, 4×4 in stage 1 and 2×2 later, on ImageNet-1K: an ablation.

Counted: 28.3 M parameters, 4.5 G multiply-adds.

    crossformer train crossformer_s_in1k_single_scale
"""

_base_ = './crossformer_s_in1k.py'

model = dict(backbone=dict(cross_scale_stages=0))
