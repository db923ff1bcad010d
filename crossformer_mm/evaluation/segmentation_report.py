"""Evaluation of segmentation: mIoU, mAcc and aAcc, a table of the classes, label maps and plots."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.evaluator import BaseMetric
from mmengine.logging import MMLogger
from terminaltables import AsciiTable
from torch import Tensor

from ..data.label_check import IGNORED
from ..data.label_files import values_of_classes, write_label_map
from ..utils.text import printable, short_name
from .plots import plot_bars, plot_confusions
from .samples import label_array


class SegmentationReport(BaseMetric):
    """MMSegmentation's mIoU from exact counts, with a table of the classes, label maps and plots.

    MMSegmentation's own metric adds in float32, rounds its results, and names label maps without their
    subfolder, so that they overwrite each other. Here a confusion matrix of pixels is counted in integers.
    As in MMSegmentation, the numbers are in percent, and a class counts in mIoU if it occurs in the ground
    truth or is predicted, and in mAcc if it occurs in the ground truth.

    Args:
        ignore_index: The label of pixels that do not count.
        classwise: Whether to report each class as well.
        out_dir: If given, the folder for label maps: one PNG per image, in the dataset's own numbering.
        names: With ``out_dir``, the name of the label map of each image path.
        format_only: Write the label maps without evaluating; needs no ground truth.
        plots_dir: If given, the folder for ``iou.png`` and ``confusion_matrix.png``.
        **settings: Arguments of MMEngine's ``BaseMetric``.

    Attributes:
        counts: The pixels that the last evaluation counted, in the evaluating process; the true class by row,
            the predicted one by column.
    """

    default_prefix = ''  # no prefix, and no warning about it
    PLOTS = ('iou.png', 'confusion_matrix.png')

    def __init__(
        self,
        ignore_index: int = IGNORED,
        classwise: bool = False,
        out_dir: str | None = None,
        names: Mapping[str, str] | None = None,
        format_only: bool = False,
        plots_dir: str | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(**settings)
        self.ignore_index = ignore_index
        self.classwise = classwise
        self.out_dir = out_dir
        self.names = names
        self.format_only = format_only
        self.plots_dir = plots_dir
        self.counts: np.ndarray | None = None

    def process(self, data_batch: Any, data_samples: Sequence[dict[str, Any]]) -> None:
        """Count and write a batch.

        Args:
            data_batch: Unused; the samples contain the ground truth.
            data_samples: Predictions, as dicts.
        """
        classes = len(self.dataset_meta['classes'])
        for sample in data_samples:
            predicted = sample['pred_sem_seg']['data']
            if self.out_dir:
                values = values_of_classes(self.dataset_meta)[label_array(predicted)]
                write_label_map(Path(self.out_dir, self.names[sample['img_path']]), values)
            if self.format_only:
                self.results.append(())  # one entry per image; MMEngine drops None
                continue
            truth = sample['gt_sem_seg']['data'].to(predicted.device)
            counts = count_confusions(truth, predicted, classes, self.ignore_index).flatten()
            cells = counts.nonzero()[
                :, 0
            ]  # only non-zero cells: matrices of 150 × 150 for all images would fill the memory
            self.results.append((cells.cpu().numpy(), counts[cells].cpu().numpy()))

    def compute_metrics(self, results: list[tuple[np.ndarray, ...]]) -> dict[str, float]:
        """Evaluate all predictions.

        Args:
            results: Collected by ``process`` for each image.

        Returns:
            ``mIoU``, ``mAcc`` and ``aAcc`` in percent; with ``classwise``, also ``IoU/{class}`` and
            ``Acc/{class}`` of the classes that have one. Empty with ``format_only``.
        """
        logger = MMLogger.get_current_instance()
        if self.out_dir:
            logger.info(f'{len(self.names)} label maps: written to {printable(self.out_dir)}')
        if self.format_only:
            return {}
        names = [printable(name) for name in self.dataset_meta['classes']]
        counts = np.zeros((len(names), len(names)), np.int64)
        for cells, numbers in results:
            counts.flat[cells] += numbers  # no cell occurs twice
        self.counts = counts
        ious, accuracies = class_scores(counts)
        report = {
            'mIoU': _mean(ious),
            'mAcc': _mean(accuracies),
            'aAcc': float(_percent(counts.trace(), counts.sum())),
        }
        if self.classwise:
            logger.info(f'each class, in percent:\n{class_table(counts, names)}')
            for kind, scores in (('IoU', ious), ('Acc', accuracies)):
                known = zip(names, scores.tolist(), strict=True)
                report.update({f'{kind}/{name}': score for name, score in known if score == score})
        if self.plots_dir:
            bars, matrix = (Path(self.plots_dir, name) for name in self.PLOTS)
            plot_bars(bars, names, ious, 'IoU, percent', mean='mIoU')
            title = 'pixels, in percent of the true class'
            plot_confusions(matrix, counts, names, title, percent=True)
        return report


def count_confusions(truth: Tensor, predicted: Tensor, classes: int, ignore_index: int) -> Tensor:
    """Count the predicted classes of the pixels of each class.

    Args:
        truth: True labels, of any shape.
        predicted: Predicted labels, of the same shape.
        classes: The number of classes.
        ignore_index: The true label of pixels that do not count.

    Returns:
        ``(classes, classes)``: the true class by row, the predicted one by column.
    """
    truth, predicted = truth.flatten().long(), predicted.flatten().long()
    counted = truth != ignore_index
    cells = truth[counted] * classes + predicted[counted]
    return torch.bincount(cells, minlength=classes**2).reshape(classes, classes)


def class_scores(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Compute IoU and accuracy of each class.

    Args:
        counts: ``(classes, classes)`` pixels, the true class by row.

    Returns:
        Both in percent, ``(classes,)``. The IoU is NaN if the class neither occurs nor is predicted, the
        accuracy if it does not occur.
    """
    true, predicted, both = counts.sum(axis=1), counts.sum(axis=0), counts.diagonal()
    return _percent(both, true + predicted - both), _percent(both, true)


def class_table(counts: np.ndarray, names: Sequence[str]) -> str:
    """Format IoU, accuracy and frequency of each class as a table.

    Args:
        counts: ``(classes, classes)`` pixels, the true class by row.
        names: The class names.

    Returns:
        The lines of the table, with a dash for undefined numbers.
    """
    shares = _percent(counts.sum(axis=1), counts.sum())
    rows = zip(names, *class_scores(counts), shares, strict=True)
    cells = [[short_name(name), *('–' if v != v else f'{v:.2f}' for v in values)] for name, *values in rows]
    return AsciiTable([['class', 'IoU', 'Acc', 'share of the pixels'], *cells]).table


def _percent(part: np.ndarray, total: np.ndarray) -> np.ndarray:
    """The ratio in percent; NaN for a division by zero."""
    with np.errstate(invalid='ignore', divide='ignore'):
        return 100 * np.divide(part, total)


def _mean(scores: np.ndarray) -> float:
    """The mean of the scores that are not NaN."""
    known = scores[~np.isnan(scores)]
    return float(known.mean()) if known.size else float('nan')
