"""The evaluator's numbers where pycocotools' own are beside it, and where there are none."""

from pathlib import Path

import numpy as np
import pytest
from mmdet.datasets.api_wrappers import COCO

from crossformer_mm.data.shapes import CLASSES
from crossformer_mm.evaluation.coco_report import CocoReport, class_table, evaluate


@pytest.fixture(scope='module')
def annotations(coco_root: Path) -> Path:
    return coco_root / 'annotations' / 'instances_train2017.json'


@pytest.fixture(scope='module')
def truth(annotations: Path) -> COCO:
    return COCO(str(annotations))


@pytest.fixture(scope='module')
def detections(truth: COCO) -> list[dict]:
    """The truth itself, but that triangles are found a pixel too far and half of the circles are missed."""
    found = []
    for annotation in truth.dataset['annotations']:
        left, top, width, height = annotation['bbox']
        name = CLASSES[annotation['category_id'] - 1]
        if name == 'circle' and annotation['id'] % 2:
            continue
        record = {key: annotation[key] for key in ('image_id', 'category_id')}
        box = [left + (name == 'triangle'), top, width, height]
        found.append({**record, 'bbox': box, 'score': 0.9})
    return found


def test_each_class_alone_gives_its_row(truth: COCO, detections: list[dict]) -> None:
    together, _ = evaluate(truth, detections, 'bbox', truth.getCatIds())
    table = class_table(together)
    for category, name in enumerate(CLASSES, start=1):
        alone, _ = evaluate(truth, detections, 'bbox', [category])
        expected = np.where(alone.stats[:6] < 0, np.nan, alone.stats[:6])
        np.testing.assert_allclose(table[name], expected)
    assert table['rectangle'][0] == pytest.approx(1)
    assert table['circle'][0] < 0.8
    assert np.mean([row[0] for row in table.values()]) == pytest.approx(together.stats[0])


def test_summary_is_worded_by_pycocotools(truth: COCO, detections: list[dict]) -> None:
    evaluation, summary = evaluate(truth, detections, 'bbox', truth.getCatIds())
    lines = summary.splitlines()
    assert len(lines) == 12
    assert lines[0].endswith(f'= {evaluation.stats[0]:.3f}')
    assert 'maxDets=  1 ]' in lines[6]


def test_nothing_detected_counts_as_zero(annotations: Path) -> None:
    metric = CocoReport(str(annotations), classwise=True)
    metric.dataset_meta = {'classes': CLASSES}
    nothing = {'bboxes': np.zeros((0, 4)), 'scores': np.zeros(0), 'labels': np.zeros(0, int), 'masks': []}
    report = metric.compute_metrics([({}, {**nothing, 'img_id': i}) for i in range(1, 7)])
    assert report['bbox_mAP'] == report['segm_mAP'] == report['bbox_mAP/circle'] == 0
    assert len(report) == 2 * (12 + len(CLASSES))


def test_boxes_alone(annotations: Path) -> None:
    metric = CocoReport(str(annotations), metric='bbox')
    metric.dataset_meta = {'classes': CLASSES}
    box = {'bboxes': np.array([[1, 1, 9, 9.0]]), 'scores': np.array([0.5]), 'labels': np.array([0])}
    report = metric.compute_metrics([({}, {**box, 'img_id': 1})])
    assert set(report) == {f'bbox_{name}' for name in metric_names()}


def test_classes_keep_their_numbers_in_any_order(truth: COCO, detections: list[dict]) -> None:
    """pycocotools sorts categories by id; a file may list them otherwise."""
    expected, _ = evaluate(truth, detections, 'bbox', [1, 2, 3])
    turned, _ = evaluate(truth, detections, 'bbox', [3, 1, 2])
    assert list(class_table(turned)) == list(CLASSES)
    for name, row in class_table(expected).items():
        np.testing.assert_array_equal(class_table(turned)[name], row)


def metric_names() -> list[str]:
    precision = [f'mAP{suffix}' for suffix in ('', '_50', '_75', '_s', '_m', '_l')]
    return [*precision, 'AR@1', 'AR@10', 'AR@100', 'AR_s', 'AR_m', 'AR_l']
