"""The published COCO recipe: 12 epochs of 8 × 2 images, 500 warm-up iterations, steps at 8 and 11."""

_base_ = 'mmdet::_base_/schedules/schedule_1x.py'

optim_wrapper = dict(
    optimizer=dict(_delete_=True, type='AdamW', lr=1e-4, weight_decay=1e-4),
)
