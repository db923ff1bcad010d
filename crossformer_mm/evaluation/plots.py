"""Charts of evaluations and of datasets."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from pycocotools.cocoeval import COCOeval

from ..data.datasets import palette
from ..utils.text import escape_mathtext
from .pictures import save_figure

KINDS = {'bbox': 'boxes', 'segm': 'masks'}
_MANY = 25  # with more classes, cells and letters are smaller
_BARS = 150  # largest number of classes in a bar chart


def class_names(evaluation: COCOeval) -> list[str]:
    """The names of an evaluation's categories, in the order of its arrays.

    pycocotools sorts categories by id, regardless of their order in the annotation file.

    Args:
        evaluation: A finished evaluation.
    """
    return [evaluation.cocoGt.cats[category]['name'] for category in evaluation.params.catIds]


def plot_precision_recall(path: Path, evaluation: COCOeval) -> None:
    """Draw the precision-recall curve of each class.

    Args:
        path: The PNG file.
        evaluation: An accumulated evaluation with COCO's own IoU thresholds.
    """
    many = len(evaluation.params.catIds) > _MANY
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
    save_figure(figure, path, 100)


def draw_precision_recall(axes: Axes, evaluation: COCOeval) -> None:
    """Draw precision-recall curves: each class at IoU 0.5, and the mean over classes and IoUs.

    Args:
        axes: The axes to draw on; the lines are labelled with their mean, the average precision.
        evaluation: An accumulated evaluation with COCO's own IoU thresholds.
    """
    precisions = precision_of_classes(evaluation)
    recall = evaluation.params.recThrs
    names = class_names(evaluation)
    width = 0.8 if len(names) > _MANY else 1.5
    for index, (name, colour) in enumerate(zip(names, palette(len(names)), strict=True)):
        curve = precisions[:, index]
        if curve.count():
            label = f'{escape_mathtext(name)}: {curve.mean():.3f}'
            axes.plot(recall, curve, color=np.divide(colour, 255), linewidth=width, label=label)
    overall = mean_precision(evaluation)
    if overall.count():
        label = f'all, IoU 0.50:0.95: {overall.mean():.3f}'
        axes.plot(recall, overall, color='black', linestyle='--', linewidth=3, label=label)
    kind = KINDS[evaluation.params.iouType]
    axes.set(title=f'{kind}, each class at IoU 0.5', xlabel='recall', ylabel='precision')
    axes.set(xlim=(0, 1), ylim=(0, 1.01))
    axes.grid(alpha=0.3)


def precision_of_classes(evaluation: COCOeval) -> np.ma.MaskedArray:
    """The precision of each class at IoU 0.5, ``(recalls, classes)``; masked if it has no object."""
    return _precision(evaluation)[0]


def mean_precision(evaluation: COCOeval) -> np.ma.MaskedArray:
    """The mean of the precision over classes and IoUs, ``(recalls,)``."""
    return _precision(evaluation).mean(axis=(0, 2))


def _precision(evaluation: COCOeval) -> np.ma.MaskedArray:
    """``(IoUs, recalls, classes)``, of objects of all sizes."""
    return np.ma.masked_less(evaluation.eval['precision'][..., 0, -1], 0)  # −1 if there is no object


def plot_confusions(
    path: Path, counts: np.ndarray, labels: Sequence[str], title: str, percent: bool = False
) -> None:
    """Draw a confusion matrix, coloured by the share of the row.

    Args:
        path: The PNG file.
        counts: ``(N, N)``, the true class by row, the predicted one by column.
        labels: Labels of rows and columns.
        title: The title.
        percent: Write percentages of the row into the cells instead of counts.
    """
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    numbers = np.rint(100 * shares).astype(int) if percent else counts
    labels, many = [escape_mathtext(label) for label in labels], len(labels) > _MANY
    side = 4 + len(labels) * (0.25 if many else 0.6)  # inches
    figure = Figure(figsize=(side + 1, side), layout='constrained')
    axes = figure.subplots()
    image = axes.imshow(shares, cmap='Blues', vmin=0, vmax=1)
    for row, column in np.argwhere(numbers):
        colour = 'white' if shares[row, column] > 0.5 else 'black'
        text = {'ha': 'center', 'va': 'center', 'color': colour, 'fontsize': 6 if many else 10}
        axes.text(column, row, numbers[row, column], **text)
    axes.set(title=title, xlabel='predicted', ylabel='ground truth')
    size = 7 if many else 10
    axes.set_xticks(range(len(labels)), labels, rotation=90 if many else 45, fontsize=size)
    for text in axes.get_xticklabels():
        text.set(ha='right', va='center', rotation_mode='anchor')
    axes.set_yticks(range(len(labels)), labels, fontsize=size)
    axes.set_xticks(np.arange(len(labels)) + 0.5, minor=True)
    axes.set_yticks(np.arange(len(labels)) + 0.5, minor=True)
    axes.grid(which='minor', color='0.9', linewidth=0.5)
    axes.tick_params(which='minor', length=0)
    figure.colorbar(image, shrink=0.6, aspect=40, label='share of the row')
    save_figure(figure, path, 100)


def plot_bars(
    path: Path,
    names: Sequence[str],
    values: Sequence[float],
    unit: str,
    mean: str | None = None,
    lowest: bool = False,
) -> None:
    """Draw a value of each class as a bar, the largest on top.

    Args:
        path: The PNG file.
        names: Class names, at least one.
        values: One value per class; NaN for a class that does not occur.
        unit: The unit of the values.
        mean: The name of their mean; if given, it is drawn as a line.
        lowest: The smallest on top. With very many classes, only those on top are drawn.
    """
    values = np.array(values, float)
    order = np.argsort(values if lowest else -values, kind='stable')[:_BARS]  # NaN comes last
    figure = Figure(figsize=(8, 1.5 + 0.25 * len(order)), layout='constrained')
    axes = figure.subplots()
    bars = axes.barh(range(len(order)), np.nan_to_num(values[order]), color='C0')
    axes.set_yticks(range(len(order)), [escape_mathtext(names[index]) for index in order])
    axes.invert_yaxis()
    texts = [f'{value:.0f}' if value >= 100 else f'{value:.3g}' for value in values[order]]
    texts = [text.replace('nan', 'does not occur') for text in texts]
    axes.bar_label(bars, texts, padding=3, fontsize=8)
    if mean and not np.isnan(values).all():
        average = np.nanmean(values)
        axes.axvline(average, color='black', linestyle='--', label=f'{mean} {average:.1f}')
        axes.legend(loc='upper right' if lowest else 'lower right')
    which = 'smallest' if lowest else 'largest'
    title = f'the {_BARS} {which} of {len(values)} classes' if len(values) > _BARS else ''
    axes.set(xlabel=unit, title=title)
    axes.margins(x=0.1, y=0.01)
    axes.grid(axis='x', alpha=0.3)
    save_figure(figure, path, 100)


def plot_box_sizes(path: Path, boxes: Sequence[Sequence[float]]) -> None:
    """Draw a histogram of the sizes of boxes, with COCO's limits of small and medium objects.

    Args:
        path: The PNG file.
        boxes: Left, top, width and height of each box; at least one.
    """
    sides = np.sqrt(np.array(boxes, float)[:, 2:].prod(1)).clip(1)
    figure = Figure(figsize=(7, 4), layout='constrained')
    axes = figure.subplots()
    axes.hist(sides, bins=np.geomspace(1, max(2, sides.max()), 50))
    for side in (32, 96):
        axes.axvline(side, color='k', linestyle=':')
    axes.set(xscale='log', xlabel='square root of the box area, pixels', ylabel='objects')
    save_figure(figure, path, 100)
