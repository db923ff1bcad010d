"""Swin's settings of Mask2Former for each parameter, with the names of this backbone.

The backbone learns at a tenth of the rate. Its norms and position MLPs have no weight decay, nor have the
queries. The longest key that a parameter's name contains counts, so that all must be longer than 'backbone'.
"""

slow, slow_without_decay = dict(lr_mult=0.1), dict(lr_mult=0.1, decay_mult=0.0)
without_decay = dict(decay_mult=0.0)
slow_backbone = {
    'backbone': slow,
    'backbone.patch_embed.norm': slow_without_decay,
    'downsample.norm': slow_without_decay,
    'attn.pos.': slow_without_decay,
    **{f'blocks.{block}.{norm}': slow_without_decay for block in range(18) for norm in ('norm', 'ex_ln')},
    'query_embed': without_decay,
    'query_feat': without_decay,
    'level_embed': without_decay,
}
