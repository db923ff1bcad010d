"""The evaluation of a segmentation: mIoU, mAcc and aAcc, a table a class, label maps and plots."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.evaluator import BaseMetric
from mmengine.logging import MMLogger
from terminaltables import AsciiTable
from torch import Tensor

from ..data.label_check import IGNORED
from ..data.label_maps import label_array, png_name, values_of_classes, write_label_map
from .segmentation_plots import plot_ious, plot_pixels


class SegmentationReport(BaseMetric):
    """MMSegmentation's mIoU from exact counts, with a table a class, label maps and plots.

    MMSegmentation keeps sums of each class in float32, rounds what it returns, and names label maps by
    their file alone, so that subfolders overwrite each other. Here the pixels are counted in integers,
    class against class. As there, the numbers are in percent, and a class counts in a mean where the
    number exists: in mIoU if it is in the ground truth or predicted, in mAcc if it is in the ground truth.

    Args:
        ignore_index: The label of pixels that do not count.
        classwise: Whether to report each class, too.
        out_dir: Where label maps go, if anywhere: a PNG an image, in the data's own numbering.
        image_dir: What the names of images are relative to.
        format_only: Write the label maps and do nothing else; needs no ground truth.
        plots_dir: Where ``iou.png`` and ``confusion_matrix.png`` go, if anywhere.
        **settings: Of MMEngine's ``BaseMetric``.
    """

    def __init__(
        self,
        ignore_index: int = IGNORED,
        classwise: bool = False,
        out_dir: str | None = None,
        image_dir: str = '',
        format_only: bool = False,
        plots_dir: str | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(**settings)
        self.ignore_index = ignore_index
        self.classwise = classwise
        self.out_dir = out_dir
        self.image_dir = image_dir
        self.format_only = format_only
        self.plots_dir = plots_dir

    def process(self, data_batch: Any, data_samples: Sequence[dict[str, Any]]) -> None:
        """Count, and write, a batch.

        Args:
            data_batch: Unused: the samples hold the ground truth.
            data_samples: Predictions, as dicts.
        """
        classes = len(self.dataset_meta['classes'])
        for sample in data_samples:
            predicted = sample['pred_sem_seg']['data']
            if self.out_dir:
                self._write(sample['img_path'], label_array(predicted))
            if self.format_only:
                self.results.append(())  # to be counted; MMEngine leaves out None
                continue
            truth = sample['gt_sem_seg']['data'].to(predicted.device)
            counts = count_confusions(truth, predicted, classes, self.ignore_index).flatten()
            cells = counts.nonzero()[:, 0]  # few: the whole of 150 × 150 an image would fill the memory
            self.results.append((cells.cpu().numpy(), counts[cells].cpu().numpy()))

    def compute_metrics(self, results: list[tuple[np.ndarray, ...]]) -> dict[str, float]:
        """Evaluate all predictions.

        Args:
            results: What ``process`` collected, an image each.

        Returns:
            ``mIoU``, ``mAcc`` and ``aAcc`` in percent; where classes are reported, ``IoU/{class}`` and
            ``Acc/{class}`` of those that have one. Nothing with ``format_only``.
        """
        logger = MMLogger.get_current_instance()
        if self.out_dir:
            logger.info(f'{len(results)} label maps: written to {self.out_dir}')
        if self.format_only:
            return {}
        names = self.dataset_meta['classes']
        counts = np.zeros((len(names), len(names)), np.int64)
        for cells, numbers in results:
            counts.flat[cells] += numbers  # each cell once
        ious, accuracies = class_scores(counts)
        report = {
            'mIoU': _mean(ious),
            'mAcc': _mean(accuracies),
            'aAcc': float(_divided(counts.trace(), counts.sum())),
        }
        if self.classwise:
            logger.info(f'each class, in percent:\n{class_table(counts, names)}')
            for kind, scores in (('IoU', ious), ('Acc', accuracies)):
                known = zip(names, scores.tolist(), strict=True)
                report.update({f'{kind}/{name}': score for name, score in known if score == score})
        if self.plots_dir:
            folder = Path(self.plots_dir)
            folder.mkdir(parents=True, exist_ok=True)
            plot_ious(ious, names, folder / 'iou.png')
            plot_pixels(counts, names, folder / 'confusion_matrix.png')
        return report

    def _write(self, image: str, labels: np.ndarray) -> None:
        path = Path(self.out_dir, png_name(image, self.image_dir))
        path.parent.mkdir(parents=True, exist_ok=True)
        write_label_map(path, values_of_classes(self.dataset_meta)[labels])


def count_confusions(truth: Tensor, predicted: Tensor, classes: int, ignore_index: int) -> Tensor:
    """Count which class each pixel is taken for.

    Args:
        truth: Labels, of any shape.
        predicted: The same.
        classes: How many there are.
        ignore_index: The true label of pixels that do not count.

    Returns:
        ``(classes, classes)``: the true class by row, the predicted one by column.
    """
    truth, predicted = truth.flatten().long(), predicted.flatten().long()
    counted = truth != ignore_index
    cells = truth[counted] * classes + predicted[counted]
    return torch.bincount(cells, minlength=classes**2).reshape(classes, classes)


def class_scores(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """IoU and accuracy of each class.

    Args:
        counts: ``(classes, classes)`` pixels, the true class by row.

    Returns:
        Both in percent, ``(classes,)``; NaN where no pixel is or is taken for the class, and the accuracy
        where none is.
    """
    true, predicted, both = counts.sum(axis=1), counts.sum(axis=0), counts.diagonal()
    return _divided(both, true + predicted - both), _divided(both, true)


def class_table(counts: np.ndarray, names: Sequence[str]) -> str:
    """IoU, accuracy and frequency of each class.

    Args:
        counts: ``(classes, classes)`` pixels, the true class by row.
        names: Of the classes.

    Returns:
        Lines; a dash stands where a number does not exist.
    """
    shares = _divided(counts.sum(axis=1), counts.sum())
    rows = zip(names, *class_scores(counts), shares, strict=True)
    cells = [[name, *('–' if v != v else f'{v:.2f}' for v in values)] for name, *values in rows]
    return AsciiTable([['class', 'IoU', 'Acc', 'share of the pixels'], *cells]).table


def _divided(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """Percent; NaN of nothing."""
    with np.errstate(invalid='ignore', divide='ignore'):
        return 100 * np.divide(part, whole)


def _mean(scores: np.ndarray) -> float:
    """Of those that exist."""
    known = scores[~np.isnan(scores)]
    return float(known.mean()) if known.size else float('nan')
