"""Pictures of a COCO evaluation: precision over recall, and which class is taken for which."""

import contextlib
import io
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from pycocotools.cocoeval import COCOeval

from ..data.datasets import palette
from ..utils.text import escape_mathtext
from .confusion_matrix import MANY, plot_matrix, row_shares

KINDS = {'bbox': 'boxes', 'segm': 'masks'}
SCORE_THR = 0.3  # of the detections that a confusion matrix counts
IOU_THR = 0.5
BACKGROUND = 'background'


def class_names(evaluation: COCOeval) -> list[str]:
    """The names of an evaluation's categories, in the order of its arrays.

    pycocotools sorts the categories by id, whatever their order in the annotation file.

    Args:
        evaluation: One that has run.

    Returns:
        The names.
    """
    return [evaluation.cocoGt.cats[category]['name'] for category in evaluation.params.catIds]


def plot_precision_recall(evaluation: COCOeval, path: Path) -> None:
    """Write the picture of :func:`draw_precision_recall`.

    Args:
        evaluation: An accumulated evaluation with COCO's own IoU thresholds.
        path: Where to.
    """
    many = len(evaluation.params.catIds) > MANY
    figure = Figure(figsize=(13 if many else 9, 6), layout='constrained')
    axes = figure.subplots()
    draw_precision_recall(axes, evaluation)
    axes.legend(
        title='average precision',
        loc='center left',
        bbox_to_anchor=(1, 0.5),
        ncols=-(-len(axes.lines) // 30),
        fontsize='x-small' if many else 'medium',
    )
    figure.savefig(path, dpi=100)


def draw_precision_recall(axes: Axes, evaluation: COCOeval) -> None:
    """Draw precision over recall: each class at IoU 0.5, and the mean over classes and IoUs.

    Args:
        axes: Where to draw; the lines are labelled with their mean, the average precision.
        evaluation: An accumulated evaluation with COCO's own IoU thresholds.
    """
    precision = evaluation.eval['precision'][..., 0, -1]  # [IoU, recall, class]; objects of all sizes
    precision = np.ma.masked_less(precision, 0)  # −1 where there is no object
    recall = evaluation.params.recThrs
    names = class_names(evaluation)
    width = 0.8 if len(names) > MANY else 1.5
    for place, (name, colour) in enumerate(zip(names, palette(len(names)), strict=True)):
        curve = precision[0, :, place]
        if curve.count():
            label = f'{escape_mathtext(name)}: {curve.mean():.3f}'
            axes.plot(recall, curve, color=np.divide(colour, 255), linewidth=width, label=label)
    overall = precision.mean(axis=(0, 2))
    if overall.count():
        label = f'all, IoU 0.50:0.95: {precision.mean():.3f}'
        axes.plot(recall, overall, color='black', linestyle='--', linewidth=3, label=label)
    kind = KINDS[evaluation.params.iouType]
    axes.set(title=f'{kind}, each class at IoU 0.5', xlabel='recall', ylabel='precision')
    axes.set(xlim=(0, 1), ylim=(0, 1.01))
    axes.grid(alpha=0.3)


def count_confusions(evaluation: COCOeval) -> np.ndarray:
    """Count which class each object is taken for.

    pycocotools matches the detections anew, best first and without regard to classes: each takes the object
    that it overlaps most. Crowds and the detections in them do not count.

    Args:
        evaluation: One that has run.

    Returns:
        ``(classes + 1, classes + 1)``: the true class by row, the predicted one by column, in the order of
        the evaluation. The last column holds objects that were missed, the last row detections of nothing.
    """
    matching = COCOeval(evaluation.cocoGt, evaluation.cocoDt, evaluation.params.iouType)
    matching.params.useCats = 0
    matching.params.iouThrs = np.array([IOU_THR])
    matching.params.areaRng = matching.params.areaRng[:1]  # objects of all sizes
    with contextlib.redirect_stdout(io.StringIO()):
        matching.evaluate()
    places = {category: place for place, category in enumerate(evaluation.params.catIds)}
    counts = np.zeros((len(places) + 1, len(places) + 1), int)
    for image in filter(None, matching.evalImgs):
        for true, predicted in _pairs(matching, image):
            counts[places.get(true, -1), places.get(predicted, -1)] += 1
    return counts


def _pairs(matching: COCOeval, image: dict) -> Iterator[tuple[int | None, int | None]]:
    """The true and the predicted category of each object in an image; None for background.

    A low score never keeps a higher one from its object, so that detections may be left out after matching.
    """
    truth, detections = matching.cocoGt.anns, matching.cocoDt.anns
    ignored = dict(zip(image['dtIds'], image['dtIgnore'][0], strict=True))
    counted = {i for i in image['dtIds'] if detections[i]['score'] >= SCORE_THR and not ignored[i]}
    takers = [int(taker) for taker in image['gtMatches'][0]]  # 0: none; detections count from 1
    for object_id, taker, is_crowd in zip(image['gtIds'], takers, image['gtIgnore'], strict=True):
        if not is_crowd:
            predicted = detections[taker]['category_id'] if taker in counted else None
            yield truth[object_id]['category_id'], predicted
    for detection in counted.difference(takers):
        yield None, detections[detection]['category_id']


def plot_confusions(counts: np.ndarray, names: Sequence[str], kind: str, path: Path) -> None:
    """Draw a confusion matrix: numbers of objects, coloured by their share of the row.

    Args:
        counts: What :func:`count_confusions` counted.
        names: The classes, without background.
        kind: ``'bbox'`` or ``'segm'``.
        path: The picture to write.
    """
    texts = np.where(counts, counts.astype(str), '')
    title = f'{KINDS[kind]}: score ≥ {SCORE_THR:g}, IoU ≥ {IOU_THR:g}'
    plot_matrix(row_shares(counts), texts, [*names, BACKGROUND], title, path)
