"""The pictures of an evaluation: what a confusion matrix counts, and that both draw any number of classes."""

import contextlib
import io
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from matplotlib.figure import Figure
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from crossformer_mm.evaluation.coco_plots import (
    class_names,
    count_confusions,
    draw_precision_recall,
    plot_confusions,
    plot_precision_recall,
)

NAMES = ('fig', 'nut', 'date')


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
        evaluation = COCOeval(truth, truth.loadRes(detections), 'bbox')
        evaluation.evaluate()
        evaluation.accumulate()
    return evaluation


@pytest.fixture
def evaluation() -> COCOeval:
    """Six figs (9), nuts (8) and dates (7), and what each matrix entry is made of."""
    objects = [
        box(1, 9, 0),  # found
        box(1, 9, 100),  # taken for a nut, with more certainty than for a fig
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
        box(2, 9, 300, score=0.3),  # of nothing
    ]
    return evaluation_of(objects, detections)


def test_classes_are_named_in_the_order_of_the_arrays(evaluation: COCOeval) -> None:
    assert class_names(evaluation) == ['date', 'nut', 'fig']


def test_confusions_are_counted(evaluation: COCOeval) -> None:
    expected = [
        # date nut fig background: predicted
        [0, 0, 0, 1],
        [0, 0, 0, 2],
        [0, 1, 1, 0],
        [0, 1, 2, 0],
    ]
    np.testing.assert_array_equal(count_confusions(evaluation), expected)


def test_counting_leaves_the_evaluation_as_it_was(evaluation: COCOeval) -> None:
    precision = evaluation.eval['precision'].copy()
    count_confusions(evaluation)
    np.testing.assert_array_equal(evaluation.eval['precision'], precision)
    assert evaluation.params.useCats == 1


@pytest.mark.parametrize('classes', [1, 3, 30])
def test_any_number_of_classes_is_drawn(tmp_path: Path, classes: int) -> None:
    names = tuple(f'$x_$ {i}' for i in range(classes))  # as mathematics, an error
    objects = [box(1, 9 - i % classes, 20 * i) for i in range(24)]
    detections = [{**item, 'score': 0.9 - i / 50} for i, item in enumerate(objects)]
    evaluation = evaluation_of(objects, detections, names)
    plot_precision_recall(evaluation, tmp_path / 'curves.png')
    plot_confusions(count_confusions(evaluation), class_names(evaluation), 'bbox', tmp_path / 'matrix.png')
    for name in ('curves', 'matrix'):
        assert cv2.imread(str(tmp_path / f'{name}.png')).std() > 5


def test_curves_are_pycocotools_own() -> None:
    """Of two figs one is found, at an IoU of 0.8; nothing else is there."""
    evaluation = evaluation_of([box(1, 9, 100), box(1, 9, 0)], [box(1, 9, 1.1, score=0.9)])
    axes = Figure().subplots()
    draw_precision_recall(axes, evaluation)
    fig, overall = axes.lines
    half = 51 / 101  # of pycocotools' recalls 0, 0.01, …, those up to 0.5
    assert (fig.get_label(), overall.get_label()) == (
        f'fig: {half:.3f}',
        f'all, IoU 0.50:0.95: {half * 0.7:.3f}',
    )
    np.testing.assert_array_equal(fig.get_xdata(), np.linspace(0, 1, 101))
    np.testing.assert_allclose(fig.get_ydata(), [1] * 51 + [0] * 50)
    np.testing.assert_allclose(overall.get_ydata(), [0.7] * 51 + [0] * 50)
    assert axes.get_title() == 'boxes, each class at IoU 0.5'
