"""MMDetection's COCO 2017 detection; the evaluation prints COCO's twelve numbers."""

_base_ = 'mmdet::_base_/datasets/coco_detection.py'

val_evaluator = dict(type='CocoReport')
test_evaluator = dict(type='CocoReport', classwise=True)
