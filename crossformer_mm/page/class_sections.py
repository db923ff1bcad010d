"""Tables and charts of the classes of a validation, for a page."""

from collections.abc import Iterable, Sequence

import numpy as np
from mmengine.evaluator import BaseMetric

from ..evaluation import classification_report, segmentation_report
from ..evaluation.classification_report import ClassificationReport
from ..evaluation.coco_report import IOU_THR, SCORE_THR, CocoReport, KindDetails
from ..evaluation.plots import KINDS
from ..evaluation.segmentation_report import SegmentationReport
from ..utils.text import short_name
from .chart import Line, line_chart
from .html import Html, element, join, number, table

_MATRIX = 25  # largest number of classes of which a page shows the whole confusion matrix
_PAIRS = 50  # confused classes that it lists otherwise
_COLOURED = 10  # classes whose curves have a legend


def class_sections(metric: BaseMetric, names: Sequence[str]) -> Html:
    """What a metric of this package found for each class; empty for others, and before an evaluation.

    Args:
        metric: The metric.
        names: The class names.
    """
    names = [*map(short_name, names)]
    if isinstance(metric, CocoReport):
        parts = (_detection(KINDS[kind], found) for kind, found in metric.details.items())
    elif isinstance(metric, SegmentationReport) and metric.counts is not None:
        parts = [_segmentation(metric.counts, names)]
    elif isinstance(metric, ClassificationReport) and metric.counts is not None:
        parts = [_classification(metric.counts, names)]
    else:
        parts = []
    return join(part for found in parts for part in found)


def _detection(kind: str, found: KindDetails) -> Iterable[Html]:
    names = [*map(short_name, found.names)]
    heads = ['class', 'objects', 'AP', 'AP, IoU 0.5', 'AP, IoU 0.75', 'AP small', 'AP medium', 'AP large']
    rows = [
        [name, str(count), *map(number, values)]
        for name, count, values in zip(names, found.objects, found.table, strict=True)
    ]
    yield element('h3', f'{kind.capitalize()}: average precision of each class')
    yield table(heads, rows)
    few = len(names) <= _COLOURED
    lines = [
        Line(name if few else '', [*zip(found.recalls.tolist(), curve.tolist(), strict=True)], index)
        for index, (name, curve) in enumerate(zip(names, found.precisions, strict=True))
    ]
    mean = [*zip(found.recalls.tolist(), found.mean.tolist(), strict=True)]
    lines.append(Line('all classes, mean of IoU 0.50 to 0.95', mean, 7, dashed=True))
    title = f'{kind.capitalize()}: precision over recall, each class at IoU 0.5'
    yield element('div', line_chart(title, 'recall', lines, (0, 1)), class_='charts')
    yield element('h3', f'{kind.capitalize()}: confusions')
    yield element(
        'p',
        f'Detections with a score of at least {SCORE_THR:g} and the object that they overlap most'
        f' (IoU ≥ {IOU_THR:g}), whatever its class. “Background” counts missed objects, and detections'
        ' without an object.',
        class_='faint',
    )
    yield confusions(found.confusions, [*names, 'background'], [*names, 'background'])


def _segmentation(counts: np.ndarray, names: Sequence[str]) -> Iterable[Html]:
    shares = 100 * counts.sum(axis=1) / max(counts.sum(), 1)
    rows = [
        [name, *(number(value, 2) for value in values)]
        for name, *values in zip(names, *segmentation_report.class_scores(counts), shares, strict=True)
    ]
    yield table(['class', 'IoU, %', 'accuracy, %', 'share of the pixels, %'], rows)
    yield element('h3', 'Confusions: pixels, in percent of the true class')
    yield confusions(counts, names, names, percent=True)


def _classification(counts: np.ndarray, names: Sequence[str]) -> Iterable[Html]:
    precision, recall, f1 = classification_report.class_scores(counts)
    rows = [
        [name, str(images), *(number(value, 2) for value in values)]
        for name, images, *values in zip(names, counts.sum(axis=1), recall, precision, f1, strict=True)
    ]
    yield table(['class', 'images', 'recall, %', 'precision, %', 'F1, %'], rows)
    yield element('h3', 'Confusions: images')
    predicted = [*names, 'none (NaN)'] if counts[:, -1].any() else names
    yield confusions(counts[:, : len(predicted)], names, predicted)


def confusions(
    counts: np.ndarray, true: Sequence[str], predicted: Sequence[str], percent: bool = False
) -> Html:
    """A confusion matrix, or the most frequent confusions of many classes.

    Args:
        counts: The true class by row, the predicted one by column.
        true: Names of the rows.
        predicted: Names of the columns; the first are those of the rows.
        percent: Show the share of the row instead of the number.
    """
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    if len(predicted) > _MATRIX:
        return _pairs(counts, shares, true, predicted, percent)
    shown = 100 * shares if percent else counts

    def cell(row: int, column: int) -> Html:
        value = shown[row, column]
        content = ('' if not counts[row, column] else f'{value:.1f}') if percent else str(value or '')
        return element('td', content, style=f'background:rgba(var(--heat),{0.7 * shares[row, column]:.2f})')

    head = element('tr', element('td', 'true ↓ predicted →'), *(element('th', name) for name in predicted))
    rows = [
        element('tr', element('th', name), *(cell(row, column) for column in range(len(predicted))))
        for row, name in enumerate(true)
    ]
    whole = element('table', element('thead', head), element('tbody', *rows), class_='matrix')
    return element('div', whole, class_='scroll')


def _pairs(
    counts: np.ndarray, shares: np.ndarray, true: Sequence[str], predicted: Sequence[str], percent: bool
) -> Html:
    wrong = np.array(counts)
    np.fill_diagonal(wrong, 0)
    cells = np.argsort(-wrong, axis=None, kind='stable')[:_PAIRS]
    places = [divmod(int(cell), len(predicted)) for cell in cells if wrong.flat[cell]]
    rows = [
        [true[row], predicted[column], str(wrong[row, column]), number(100 * shares[row, column], 1)]
        for row, column in places
    ]
    if not rows:
        return element('p', 'No confusions.')
    unit = 'pixels' if percent else 'number'
    note = f'The {len(rows)} most frequent confusions of {len(true)} classes:'
    heads = ['true class', 'predicted class', unit, '% of the true class']
    return join([element('p', note), table(heads, rows, words=2)])
