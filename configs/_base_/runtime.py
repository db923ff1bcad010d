"""Runtime settings that segmentation and classification share: imports, environment, logging.

The toolboxes' own base configs are not inherited: MMEngine finds them in only one family of the stack.
"""

custom_imports = dict(imports=['crossformer_mm'], allow_failed_imports=False)
env_cfg = dict(
    cudnn_benchmark=True,
    mp_cfg=dict(mp_start_method='fork', opencv_num_threads=0),
    dist_cfg=dict(backend='nccl'),
)
default_hooks = dict(
    timer=dict(type='IterTimerHook'),
    param_scheduler=dict(type='ParamSchedulerHook'),
    sampler_seed=dict(type='DistSamplerSeedHook'),
)
vis_backends = [dict(type='LocalVisBackend')]
log_level = 'INFO'
load_from = None
resume = False
custom_hooks = [dict(type='CurvesHook')]
