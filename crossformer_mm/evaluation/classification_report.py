"""Evaluation of classifiers: top-k accuracy, a table of the classes, predictions as JSON, plots, mistakes."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from mmengine.evaluator import BaseMetric
from mmengine.logging import MMLogger
from terminaltables import AsciiTable

from ..utils.outputs import write_output
from ..utils.text import printable, short_name
from .class_pictures import Mistake, save_mistakes
from .plots import plot_bars, plot_confusions
from .records import TOP, best_classes, class_record
from .samples import score_array

_MISTAKES = 24  # number of images in the picture of mistakes
_CONFUSED = 50  # largest number of classes in a confusion matrix
_OTHERS = 'other classes'


class Prediction(NamedTuple):
    """What is kept of the prediction for an image: a thousand scores for each would fill the memory."""

    path: str
    truth: int
    """The true label."""
    labels: list[int]
    """Labels of the best classes, the best first; none if the scores are NaN."""
    scores: list[float]
    """Their scores."""


class ClassificationReport(BaseMetric):
    """MMPretrain's accuracy, precision, recall and F1, with a table of the classes, plots and predictions.

    MMPretrain has a metric for each, which keeps the scores of all classes of all images, and fails if the
    data has fewer classes than the k of a top-k accuracy. The numbers are in percent, and have the same names
    and values as MMPretrain's, except that classes without any image do not count in the means.

    Args:
        topk: The k of the top-k accuracies; those above the number of classes are left out.
        classwise: Whether to report each class as well.
        out_file: If given, the JSON file for the predictions and the table of the classes.
        plots_dir: If given, the folder for :attr:`PLOTS`.
        ignore_exif: Draw the images of mistakes without turning them as their EXIF data says.
        **settings: Arguments of MMEngine's ``BaseMetric``.

    Attributes:
        counts: From :func:`count_classes`, of the last evaluation, in the evaluating process.
    """

    default_prefix = ''  # no prefix, and no warning about it
    PLOTS = ('recall.png', 'confusion_matrix.png', 'mistakes.png')

    def __init__(
        self,
        topk: int | Sequence[int] = (1, 5),
        classwise: bool = False,
        out_file: str | None = None,
        plots_dir: str | None = None,
        ignore_exif: bool = False,
        **settings: Any,
    ) -> None:
        super().__init__(**settings)
        self.topk = (topk,) if isinstance(topk, int) else tuple(topk)
        self.classwise = classwise
        self.out_file = out_file
        self.plots_dir = plots_dir
        self.ignore_exif = ignore_exif
        self.counts: np.ndarray | None = None

    def process(self, data_batch: Any, data_samples: Sequence[dict[str, Any]]) -> None:
        """Keep the best classes of a batch.

        Args:
            data_batch: Unused; the samples contain the ground truth.
            data_samples: MMPretrain's predictions, as dicts.
        """
        for sample in data_samples:
            best = best_classes(score_array(sample['pred_score']), max(*self.topk, TOP))
            self.results.append(Prediction(sample.get('img_path', ''), int(sample['gt_label']), *best))

    def compute_metrics(self, results: list[Prediction]) -> dict[str, float]:
        """Evaluate all predictions.

        Args:
            results: Collected by ``process`` for each image.

        Returns:
            In percent, ``single-label/recall/{class}`` of the classes with images if ``classwise``; the means
            ``single-label/precision``, ``single-label/recall`` and ``single-label/f1-score`` over these
            classes; and ``accuracy/top{k}``.
        """
        logger = MMLogger.get_current_instance()
        results = [Prediction(*result) for result in results]
        names = [printable(name) for name in self.dataset_meta['classes']]
        if invalid := sum(not result.labels for result in results):
            logger.warning(
                f'{invalid} of {len(results)} images have no valid score (NaN) and count as wrong:'
                ' the weights are damaged, or numbers overflow'
            )
        self.counts = counts = count_classes(results, len(names))
        images, scores = counts.sum(axis=1), class_scores(counts)
        if self.classwise:
            logger.info(f'each class, in percent:\n{class_table(images, scores, names)}')
        if self.out_file:
            write_output(
                Path(self.out_file),
                lambda part: _save(part, results, self.dataset_meta['classes'], images, scores),
            )
            logger.info(f'{len(results)} predictions: written to {printable(self.out_file)}')
        if self.plots_dir:
            self._plot(results, counts, scores[1])
        return self._numbers(results, images, scores, names)

    def _numbers(
        self, results: list[Prediction], images: np.ndarray, scores: np.ndarray, names: Sequence[str]
    ) -> dict[str, float]:
        occurring = images > 0
        report = {}
        if self.classwise:  # first, so that the log ends with the accuracy
            recalls = zip(names, scores[1].tolist(), strict=True)
            report = {f'single-label/recall/{name}': recall for name, recall in recalls if recall == recall}
        for kind, values in zip(('precision', 'recall', 'f1-score'), scores, strict=True):
            report[f'single-label/{kind}'] = float(values[occurring].mean())
        for k in self.topk:
            if k <= len(names):
                right = sum(result.truth in result.labels[:k] for result in results)
                report[f'accuracy/top{k}'] = 100 * right / len(results)
        return report

    def _plot(self, results: list[Prediction], counts: np.ndarray, recalls: np.ndarray) -> None:
        names = list(self.dataset_meta['classes'])
        bars, matrix, pictures = (Path(self.plots_dir, name) for name in self.PLOTS)
        plot_bars(bars, names, recalls, 'recall, percent', mean='mean', lowest=True)
        predicted = counts[:, : len(names)]
        title = 'images'
        if len(names) > _CONFUSED:
            chosen = most_confused(predicted, _CONFUSED)
            title = f'images: the {len(chosen)} most confused of {len(names)} classes'
            predicted = merge_others(predicted, chosen)
            names = [*(names[label] for label in chosen), _OTHERS]
        plot_confusions(matrix, predicted, names, title)
        names = self.dataset_meta['classes']
        wrong = [result for result in results if result.labels and result.labels[0] != result.truth]
        surest = sorted(wrong, key=lambda result: -result.scores[0])[:_MISTAKES]
        mistakes = [Mistake(r.path, names[r.truth], names[r.labels[0]], r.scores[0]) for r in surest]
        save_mistakes(pictures, mistakes, self.ignore_exif)


def count_classes(results: Sequence[Prediction], classes: int) -> np.ndarray:
    """Count the predicted classes of the images of each class.

    Args:
        results: The predictions.
        classes: The number of classes.

    Returns:
        ``(classes, classes + 1)``: the true class by row, the predicted one by column; the last column counts
        images without a prediction.
    """
    counts = np.zeros((classes, classes + 1), int)
    for result in results:
        counts[result.truth, result.labels[0] if result.labels else classes] += 1
    return counts


def class_scores(counts: np.ndarray) -> np.ndarray:
    """Compute precision, recall and F1 of each class.

    Args:
        counts: From :func:`count_classes`.

    Returns:
        ``(3, classes)`` in percent. The recall of a class without images is NaN; so are the others if it is
        not predicted either.
    """
    true, found, right = counts.sum(axis=1), counts.sum(axis=0)[:-1], counts.diagonal()
    with np.errstate(invalid='ignore'):
        precision = 100 * right / np.where(true > 0, np.maximum(found, 1), found)
        return np.stack([precision, 100 * right / true, 200 * right / (true + found)])


def class_table(images: np.ndarray, scores: np.ndarray, names: Sequence[str]) -> str:
    """Format the scores of each class as a table.

    Args:
        images: The number of images of each class.
        scores: From :func:`class_scores`.
        names: The class names.

    Returns:
        The lines of the table, with a dash for undefined numbers.
    """
    rows = [
        [short_name(name), count, *('–' if v != v else f'{v:.2f}' for v in (recall, precision, f1))]
        for name, count, (precision, recall, f1) in zip(names, images.tolist(), scores.T, strict=True)
    ]
    return AsciiTable([['class', 'images', 'recall', 'precision', 'F1'], *rows]).table


def most_confused(counts: np.ndarray, most: int) -> list[int]:
    """Choose the classes of the most frequent confusions.

    Args:
        counts: ``(classes, classes)``, the true class by row, the predicted one by column.
        most: How many classes to choose.

    Returns:
        Their labels, in order.
    """
    wrong = counts - np.diag(counts.diagonal())
    cells = np.argsort(-wrong, axis=None, kind='stable')[: most**2]
    pairs = np.stack(np.unravel_index(cells, wrong.shape), axis=1)
    return sorted([*dict.fromkeys(pairs.ravel().tolist())][:most])


def merge_others(counts: np.ndarray, chosen: Sequence[int]) -> np.ndarray:
    """Reduce a confusion matrix to some classes; the others become one class, the last.

    Args:
        counts: ``(classes, classes)``.
        chosen: The labels of the classes to keep.
    """
    place = np.full(len(counts), len(chosen))
    place[list(chosen)] = range(len(chosen))
    merged = np.zeros((len(chosen) + 1,) * 2, int)
    np.add.at(merged, (place[:, None], place), counts)
    return merged


def _save(
    path: Path, results: Sequence[Prediction], names: Sequence[str], images: np.ndarray, scores: np.ndarray
) -> None:
    """Write predictions and the table of the classes as JSON, one image or class per line."""
    with path.open('w', encoding='utf-8', errors='backslashreplace') as file:
        for key, records in (
            ('classes', _class_records(names, images, scores)),
            ('images', _image_records(results, names)),
        ):
            file.write('{' if key == 'classes' else ',\n')
            file.write(f'"{key}": [')
            for index, record in enumerate(records):
                file.write(',\n' if index else '\n')
                json.dump(record, file, ensure_ascii=False, allow_nan=False)
            file.write('\n]')
        file.write('}\n')


def _class_records(names: Sequence[str], images: np.ndarray, scores: np.ndarray) -> Iterator[dict[str, Any]]:
    for name, count, values in zip(names, images.tolist(), scores.T.tolist(), strict=True):
        known = (None if value != value else round(value, 4) for value in values)
        yield {'name': name, 'images': count, **dict(zip(('precision', 'recall', 'f1'), known, strict=True))}


def _image_records(results: Sequence[Prediction], names: Sequence[str]) -> Iterator[dict[str, Any]]:
    for path, truth, labels, scores in results:
        top = class_record(labels[:TOP], scores[:TOP], names)
        yield {'file': path, 'true_label': truth, 'true_name': names[truth], **top}
