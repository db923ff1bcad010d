"""Runtime settings of all detection configs: imports, logging, which checkpoints are kept."""

_base_ = 'mmdet::_base_/default_runtime.py'

custom_imports = dict(imports=['crossformer_mm'], allow_failed_imports=False)
default_hooks = dict(
    checkpoint=dict(max_keep_ckpts=3, save_best='coco/bbox_mAP', rule='greater'),
)
custom_hooks = [dict(type='CurvesHook')]
