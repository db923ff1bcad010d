"""COCO's evaluation as pycocotools computes it: twelve numbers a kind, and a table a class."""

import contextlib
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from mmdet.datasets.api_wrappers import COCO, COCOeval
from mmdet.evaluation import CocoMetric
from mmengine.fileio import dump
from mmengine.logging import MMLogger
from terminaltables import AsciiTable

from .coco_plots import class_names, count_confusions, plot_confusions, plot_precision_recall

_STATS = (
    *('mAP', 'mAP_50', 'mAP_75', 'mAP_s', 'mAP_m', 'mAP_l'),
    *('AR@1', 'AR@10', 'AR@100', 'AR_s', 'AR_m', 'AR_l'),
)


class CocoReport(CocoMetric):
    """MMDetection's COCO metric with pycocotools' own settings and all of its numbers.

    MMDetection evaluates with 100, 300 and 1000 detections an image instead of COCO's 1, 10 and 100,
    prints the summary past the log, gives the classes of boxes and of masks the same name, and leaves
    no number at all where nothing was detected. Here the summary goes to the log as pycocotools words
    it, and a network that detects nothing has an mAP of 0.

    Args:
        ann_file: The annotation file.
        metric: ``'bbox'``, ``'segm'`` or both.
        classwise: Whether to report each class, too.
        plots_dir: Where ``{kind}_precision_recall.png`` and ``{kind}_confusion_matrix.png`` go, if
            anywhere.
        **settings: As in ``CocoMetric``: ``outfile_prefix`` writes ``{outfile_prefix}.{kind}.json``, and
            ``format_only`` does nothing else.
    """

    def __init__(
        self,
        ann_file: str,
        metric: str | Sequence[str] = ('bbox', 'segm'),
        classwise: bool = False,
        plots_dir: str | None = None,
        **settings: Any,
    ) -> None:
        metric = [metric] if isinstance(metric, str) else list(metric)
        super().__init__(ann_file=ann_file, metric=metric, classwise=classwise, **settings)
        self.plots_dir = plots_dir

    def compute_metrics(self, results: list[tuple[dict, dict]]) -> dict[str, float]:
        """Evaluate all predictions.

        Args:
            results: What ``process`` collected, a pair of truth and prediction an image.

        Returns:
            ``{kind}_{number}`` for the twelve numbers of each kind, and ``{kind}_mAP/{class}``
            where classes are reported. Nothing with ``format_only``.
        """
        self.cat_ids = self._coco_api.get_cat_ids(cat_names=self.dataset_meta['classes'])
        predictions = [prediction for _, prediction in results]
        report: dict[str, float] = {}
        for kind in self.metrics:
            detections = list(coco_results(predictions, kind, self.cat_ids))
            if self.outfile_prefix:
                self._write(kind, detections)
            if not self.format_only:
                report.update(self._report(kind, detections))
        return report

    def _write(self, kind: str, detections: list[dict]) -> None:
        path = f'{self.outfile_prefix}.{kind}.json'
        dump(detections, path)
        MMLogger.get_current_instance().info(f'{kind}, {len(detections)} detections: written to {path}')

    def _report(self, kind: str, detections: list[dict]) -> dict[str, float]:
        """Evaluate, log the summary, draw, and return the numbers."""
        logger = MMLogger.get_current_instance()
        evaluation, summary = evaluate(self._coco_api, detections, kind, self.cat_ids)
        logger.info(f'{kind}, {len(detections)} detections:\n{summary}')
        report = {
            f'{kind}_{name}': float(value) for name, value in zip(_STATS, evaluation.stats, strict=True)
        }
        if self.classwise:
            table = class_table(evaluation)
            rows = [[name, *(f'{value:.3f}' for value in row)] for name, row in table.items()]
            text = AsciiTable([['class', *_STATS[:6]], *rows]).table
            logger.info(f'{kind}, each class:\n{text}')
            report.update({f'{kind}_mAP/{name}': row[0] for name, row in table.items()})
        if self.plots_dir:
            draw(evaluation, Path(self.plots_dir))
        return report


def coco_results(predictions: Sequence[dict], kind: str, category_ids: Sequence[int]) -> Iterator[dict]:
    """Write predictions as COCO's result format has them.

    MMDetection gives a mask's record its box as well, whose size pycocotools then takes for the object's.

    Args:
        predictions: An image each, as ``CocoMetric.process`` collects them.
        kind: ``'bbox'`` or ``'segm'``.
        category_ids: The annotation file's, by label.

    Yields:
        A record an object: ``bbox`` (left, top, width, height), or ``segmentation`` in run lengths.
    """
    for prediction in predictions:
        scores = prediction['scores']
        if kind == 'segm':
            scores = prediction.get('mask_scores', scores)
        for place, (label, score) in enumerate(zip(prediction['labels'], scores, strict=True)):
            record = {
                'image_id': prediction['img_id'],
                'category_id': category_ids[label],
                'score': float(score),
            }
            if kind == 'segm':
                mask = prediction['masks'][place]
                record['segmentation'] = {'size': list(mask['size']), 'counts': mask['counts'].decode()}
            else:
                left, top, right, bottom = prediction['bboxes'][place].tolist()
                record['bbox'] = [left, top, right - left, bottom - top]
            yield record


def evaluate(
    truth: COCO, detections: list[dict], kind: str, category_ids: Sequence[int]
) -> tuple[COCOeval, str]:
    """Let pycocotools evaluate.

    Args:
        truth: The annotation file.
        detections: Records in COCO's result format.
        kind: ``'bbox'`` or ``'segm'``.
        category_ids: The categories that count.

    Returns:
        The evaluation, and its summary in pycocotools' words.
    """
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = COCOeval(truth, _with_detections(truth, detections), kind)
        evaluation.params.catIds = list(category_ids)
        evaluation.evaluate()
        evaluation.accumulate()
    with contextlib.redirect_stdout(io.StringIO()) as summary:
        evaluation.summarize()
    return evaluation, summary.getvalue().rstrip()


def _with_detections(truth: COCO, detections: list[dict]) -> COCO:
    """``truth.loadRes``, which fails on an empty list."""
    if detections:
        return truth.loadRes(detections)
    nothing = COCO()
    nothing.dataset = {**truth.dataset, 'annotations': []}
    nothing.createIndex()
    return nothing


def draw(evaluation: COCOeval, folder: Path) -> None:
    """Draw an evaluation's precision over recall and its confusion matrix.

    Args:
        evaluation: An accumulated evaluation.
        folder: Where the two pictures go, named after the kind of the evaluation.
    """
    folder.mkdir(parents=True, exist_ok=True)
    kind = evaluation.params.iouType
    plot_precision_recall(evaluation, folder / f'{kind}_precision_recall.png')
    counts = count_confusions(evaluation)
    plot_confusions(counts, class_names(evaluation), kind, folder / f'{kind}_confusion_matrix.png')


def class_table(evaluation: COCOeval) -> dict[str, list[float]]:
    """The first six of the twelve numbers for each class.

    Args:
        evaluation: An accumulated evaluation.

    Returns:
        By name: AP, AP at IoU 0.5 and 0.75, and AP of small, medium and large objects; NaN where a
        class has no such object.
    """
    precision = evaluation.eval['precision']  # [IoU, recall, class, size, detections an image]
    cuts = (np.s_[:, :, 0], np.s_[0, :, 0], np.s_[5, :, 0], *(np.s_[:, :, i] for i in (1, 2, 3)))
    return {
        name: [_mean(precision[:, :, place, :, -1][cut]) for cut in cuts]
        for place, name in enumerate(class_names(evaluation))
    }


def _mean(precision: np.ndarray) -> float:
    """The mean of what pycocotools could compute; it writes −1 where there was no object."""
    known = precision[precision > -1]
    return float(known.mean()) if known.size else float('nan')
