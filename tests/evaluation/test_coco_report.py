"""The COCO evaluation: pycocotools' numbers, the confusion matrix, and its plots."""

import contextlib
import io
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from crossformer_mm.data.shapes import CLASSES
from crossformer_mm.evaluation.coco_report import CocoReport, class_table, count_confusions, evaluate
from crossformer_mm.evaluation.plots import (
    draw_precision_recall,
    plot_bars,
    plot_confusions,
    plot_precision_recall,
)

NAMES = ('fig', 'nut', 'date')
STATS = ('mAP', 'mAP_50', 'mAP_75', 'mAP_s', 'mAP_m', 'mAP_l')
RECALLS = ('AR@1', 'AR@10', 'AR@100', 'AR_s', 'AR_m', 'AR_l')


@pytest.fixture(scope='module')
def annotations(coco_root: Path) -> Path:
    return coco_root / 'annotations' / 'instances_train2017.json'


@pytest.fixture(scope='module')
def truth(annotations: Path) -> COCO:
    return COCO(annotations)


@pytest.fixture(scope='module')
def detections(truth: COCO) -> list[dict]:
    """The ground truth as detections, with triangles shifted by a pixel and half of the circles missed."""
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
    together, summary = evaluate(truth, detections, 'bbox', [3, 1, 2])  # pycocotools sorts categories by id
    assert summary.splitlines()[0].endswith(f'= {together.stats[0]:.3f}')
    table = class_table(together)
    assert list(table) == list(CLASSES)
    for category, name in enumerate(CLASSES, start=1):
        alone, _ = evaluate(truth, detections, 'bbox', [category])
        expected = np.where(alone.stats[:6] < 0, np.nan, alone.stats[:6])
        np.testing.assert_allclose(table[name], expected)
    assert table['rectangle'][0] == pytest.approx(1)
    assert table['circle'][0] < 0.8
    assert np.mean([row[0] for row in table.values()]) == pytest.approx(together.stats[0])


def report(annotations: Path, found: dict[str, Any], **settings: Any) -> dict[str, float]:
    """Evaluate predictions for the first image, and none for the others."""
    metric = CocoReport(str(annotations), **settings)
    metric.dataset_meta = {'classes': CLASSES}
    nothing = {key: value[:0] for key, value in found.items()}
    for image in range(1, 7):
        metric.process(None, [{'img_id': image, 'pred_instances': found if image == 1 else nothing}])
    return metric.evaluate(6)


def test_nothing_detected_counts_as_zero(annotations: Path) -> None:
    found = {'bboxes': torch.zeros(0, 4), 'scores': torch.zeros(0), 'labels': torch.zeros(0, dtype=int)}
    found['masks'] = torch.zeros(0, 64, 64, dtype=bool)
    numbers = report(annotations, found, classwise=True)
    assert numbers['coco/bbox_mAP'] == numbers['coco/segm_mAP'] == numbers['coco/bbox_mAP/circle'] == 0
    assert len(numbers) == 2 * (12 + len(CLASSES))


def test_boxes_alone(annotations: Path) -> None:
    found = {
        'bboxes': torch.tensor([[1, 1, 9, 9.0]]),
        'scores': torch.ones(1),
        'labels': torch.zeros(1, dtype=int),
    }
    assert set(report(annotations, found, metric='bbox')) == {f'coco/bbox_{name}' for name in STATS + RECALLS}


def test_results_keep_ids_that_were_repaired(annotations: Path, tmp_path: Path) -> None:
    data = json.loads(annotations.read_text())
    data['images'][0]['original_id'] = 'one'
    data['categories'][1]['original_id'] = 2.0
    (tmp_path / 'repaired.json').write_text(json.dumps(data))
    found = {
        'bboxes': torch.tensor([[1, 1, 9, 9.0]]),
        'scores': torch.ones(1),
        'labels': torch.ones(1, dtype=int),
    }
    report(tmp_path / 'repaired.json', found, metric='bbox', outfile_prefix=str(tmp_path / 'out'))
    (record,) = json.loads((tmp_path / 'out.bbox.json').read_text())
    assert (record['image_id'], repr(record['category_id'])) == ('one', '2.0')


@pytest.mark.parametrize('settings', [{'metric': 'proposal'}, {'format_only': True}])
def test_settings_that_cannot_work(annotations: Path, settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match='|'.join(settings)):
        CocoReport(str(annotations), **settings)


def box(image: int, category: int, left: float, **more: Any) -> dict[str, Any]:
    """A square of ten pixels; a ``score`` makes it a detection."""
    return {'image_id': image, 'category_id': category, 'bbox': [left, 0.0, 10.0, 10.0], **more}


def evaluation_of(
    objects: list[dict[str, Any]], detections: list[dict[str, Any]], names: tuple[str, ...] = NAMES
) -> COCOeval:
    """An evaluation of boxes in two images; annotation ids count from 0, category ids down from 9."""
    truth = COCO()
    truth.dataset = {
        'images': [{'id': i, 'width': 500, 'height': 20} for i in (1, 2)],
        'annotations': [{'id': i, 'area': 100, 'iscrowd': 0, **item} for i, item in enumerate(objects)],
        'categories': [{'id': 9 - i, 'name': name} for i, name in enumerate(names)],
    }
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
    return evaluate(truth, detections, 'bbox', truth.getCatIds())[0]


def test_confusions_are_counted() -> None:
    """Six figs (9), nuts (8) and dates (7), with the contributions to each entry of the matrix."""
    objects = [
        box(1, 9, 0),  # found
        box(1, 9, 100),  # taken for a nut, with a higher score than for a fig
        box(1, 8, 200),  # found too far off
        box(1, 8, 300, iscrowd=1),  # does not count
        box(2, 7, 0),  # missed: the score is too low
        box(2, 8, 100),  # missed
    ]
    detections = [
        box(1, 9, 1, score=0.9),
        box(1, 8, 100, score=0.8),
        box(1, 9, 100, score=0.7),  # has no object left
        box(1, 8, 206, score=0.9),
        box(1, 8, 300, score=0.9),
        box(2, 7, 0, score=0.29),
        box(2, 9, 300, score=0.3),  # without an object
    ]
    expected = [
        # date nut fig background: predicted
        [0, 0, 0, 1],
        [0, 0, 0, 2],
        [0, 1, 1, 0],
        [0, 1, 2, 0],
    ]
    np.testing.assert_array_equal(count_confusions(evaluation_of(objects, detections)), expected)


@pytest.mark.parametrize('classes', [1, 30])
def test_any_number_of_classes_is_drawn(tmp_path: Path, classes: int) -> None:
    names = tuple(f'$x_$ {i}' for i in range(classes))  # matplotlib would refuse it as mathematics
    objects = [box(1, 9 - i % classes, 20 * i) for i in range(24)]
    detections = [{**item, 'score': 0.9 - i / 50} for i, item in enumerate(objects)]
    evaluation = evaluation_of(objects, detections, names)
    plot_precision_recall(tmp_path / 'curves.png', evaluation)
    plot_confusions(tmp_path / 'matrix.png', count_confusions(evaluation), [*names, 'none'], '')
    plot_bars(tmp_path / 'ious.png', names, [np.nan, *range(1, classes)], 'percent', mean='mIoU')
    for name in ('curves', 'matrix', 'ious'):
        assert cv2.imread(str(tmp_path / f'{name}.png')).std() > 5


def test_names_as_files_have_them_are_in_the_legend_and_the_tables(annotations: Path) -> None:
    names = ('$x_$', '_low', 'a\nb\x1b[31m', '猫' * 500)
    objects = [box(1, 9 - i, 20 * i) for i in range(4)]
    found = [{**item, 'score': 0.9} for item in objects]
    evaluation = evaluation_of(objects, found, names[::-1])  # sorted by ids, which count down
    axes = Figure().subplots()
    draw_precision_recall(axes, evaluation)
    *labels, overall = [text.get_text() for text in axes.legend().get_texts()]
    assert labels[:3] == [r'\$x_\$: 1.000', ' _low: 1.000', r'a\nb\x1b[31m: 1.000']
    assert labels[3].startswith('猫猫') and len(labels[3]) < 60
    assert overall.startswith('all')
    assert list(class_table(evaluation))[2] == r'a\nb\x1b[31m', 'the name in the log'


def test_curves_are_those_of_pycocotools() -> None:
    """One of two figs is detected, at an IoU of 0.8."""
    evaluation = evaluation_of([box(1, 9, 100), box(1, 9, 0)], [box(1, 9, 1.1, score=0.9)])
    axes = Figure().subplots()
    draw_precision_recall(axes, evaluation)
    fig, overall = axes.lines
    half = 51 / 101  # of pycocotools' recalls 0, 0.01, …, those up to 0.5
    assert fig.get_label() == f'fig: {half:.3f}'
    assert overall.get_label() == f'all, IoU 0.50:0.95: {half * 0.7:.3f}'
    np.testing.assert_array_equal(fig.get_xdata(), np.linspace(0, 1, 101))
    np.testing.assert_allclose(fig.get_ydata(), [1] * 51 + [0] * 50)
    np.testing.assert_allclose(overall.get_ydata(), [0.7] * 51 + [0] * 50)


def test_confusions_of_chosen_classes_leave_out_the_objects_of_others() -> None:
    """A nut takes no fig's detection, and counts as background that nothing was found in."""
    evaluation = evaluation_of([box(1, 8, 0), box(1, 8, 200)], [box(1, 9, 0, score=0.9)])
    evaluation.params.catIds = [9]
    np.testing.assert_array_equal(count_confusions(evaluation), [[0, 0], [1, 0]])
