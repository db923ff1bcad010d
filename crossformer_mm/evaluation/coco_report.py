"""COCO evaluation by pycocotools: twelve numbers for boxes and for masks, and a table of the classes."""

import contextlib
import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from mmengine.evaluator import BaseMetric
from mmengine.fileio import dump, get_local_path
from mmengine.logging import MMLogger
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from terminaltables import AsciiTable

from ..data.coco_ids import ORIGINAL_ID
from ..utils.outputs import write_output
from ..utils.text import printable, short_name
from .plots import (
    KINDS,
    class_names,
    mean_precision,
    plot_confusions,
    plot_precision_recall,
    precision_of_classes,
)
from .records import encode_mask

_STATS = (
    *('mAP', 'mAP_50', 'mAP_75', 'mAP_s', 'mAP_m', 'mAP_l'),
    *('AR@1', 'AR@10', 'AR@100', 'AR_s', 'AR_m', 'AR_l'),
)
SCORE_THR, IOU_THR = 0.3, 0.5  # thresholds for the detections in a confusion matrix


class KindDetails(NamedTuple):
    """What an evaluation of boxes or of masks found for each class, in the order of its arrays."""

    names: list[str]
    objects: list[int]
    """The objects of each class in the ground truth, without crowds."""
    table: list[list[float]]
    """From :func:`class_rows`."""
    recalls: np.ndarray
    """The recalls of the curves."""
    precisions: np.ndarray
    """The precision of each class at IoU 0.5, ``(classes, recalls)``; NaN if there is no object."""
    mean: np.ndarray
    """The mean over classes and IoUs, ``(recalls,)``."""
    confusions: np.ndarray
    """From :func:`count_confusions`."""


class CocoReport(BaseMetric):
    """COCO's metrics with pycocotools' own settings and all of its numbers.

    MMDetection's metric evaluates with 100, 300 and 1000 detections per image instead of COCO's 1, 10 and
    100, prints the summary without logging it, uses the same names for the classes' numbers of boxes and of
    masks, and returns no numbers if nothing was detected. Here pycocotools' summary is logged, and a network
    that detects nothing has an mAP of 0.

    Args:
        ann_file: The annotation file, which only the evaluating process reads.
        metric: ``'bbox'``, ``'segm'`` or both.
        classwise: Whether to report each class as well.
        outfile_prefix: If given, results are written to ``{outfile_prefix}.{kind}.json``.
        format_only: Write these files without evaluating.
        plots_dir: If given, the folder for :attr:`PLOTS` of each kind.
        backend_args: Arguments of MMEngine's file backend for ``ann_file``.
        **settings: Arguments of MMEngine's ``BaseMetric``.

    Attributes:
        detailed: Set it to keep :attr:`details`.
        details: What the last evaluation found for each class, by kind, in the evaluating process.

    Raises:
        ValueError: An unknown ``metric``, or ``format_only`` without ``outfile_prefix``.
    """

    default_prefix = 'coco'
    PLOTS = ('{}_precision_recall.png', '{}_confusion_matrix.png')

    def __init__(
        self,
        ann_file: str,
        metric: str | Sequence[str] = ('bbox', 'segm'),
        classwise: bool = False,
        outfile_prefix: str | None = None,
        format_only: bool = False,
        plots_dir: str | None = None,
        backend_args: dict[str, Any] | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(**settings)
        self.ann_file = ann_file
        self.kinds = [metric] if isinstance(metric, str) else list(metric)
        self.classwise = classwise
        self.outfile_prefix = outfile_prefix
        self.format_only = format_only
        self.plots_dir = plots_dir
        self.backend_args = backend_args
        if unknown := set(self.kinds) - set(KINDS):
            raise ValueError(f'metric {", ".join(unknown)}: only {" and ".join(KINDS)} can be evaluated')
        if format_only and not outfile_prefix:
            raise ValueError('format_only needs an outfile_prefix')
        self._truth: COCO | None = None
        self.detailed = False
        self.details: dict[str, KindDetails] = {}

    def process(self, data_batch: Any, data_samples: Sequence[dict[str, Any]]) -> None:
        """Collect the detections of a batch.

        Args:
            data_batch: Unused.
            data_samples: MMDetection's predictions, as dicts.
        """
        for sample in data_samples:
            found = sample['pred_instances']
            self.results.append(
                {kind: list(coco_results(found, kind, sample['img_id'])) for kind in self.kinds}
            )

    def compute_metrics(self, results: Sequence[dict[str, list[dict]]]) -> dict[str, float]:
        """Evaluate all predictions.

        Args:
            results: Collected by ``process`` for each image.

        Returns:
            ``{kind}_{number}`` for the twelve numbers of each kind, and ``{kind}_mAP/{class}`` with
            ``classwise``. Empty with ``format_only``.
        """
        truth = self._load_truth()
        # in the order of the file, as MMDetection numbers its labels
        category_ids = truth.getCatIds(catNms=list(self.dataset_meta['classes']))
        report: dict[str, float] = {}
        for kind in self.kinds:
            detections = [
                {**record, 'category_id': category_ids[record['category_id']]}
                for image in results
                for record in image[kind]
            ]
            if self.outfile_prefix:
                self._write(kind, with_original_ids(truth, detections))
            if not self.format_only:
                report.update(self._evaluate(truth, detections, kind, category_ids))
        return report

    def _load_truth(self) -> COCO:
        if self._truth is None:
            with (
                contextlib.redirect_stdout(io.StringIO()),
                get_local_path(self.ann_file, backend_args=self.backend_args) as path,
            ):
                self._truth = COCO(path)
        return self._truth

    def _write(self, kind: str, detections: list[dict]) -> None:
        path = f'{self.outfile_prefix}.{kind}.json'
        write_output(Path(path), lambda part: dump(detections, part, file_format='json'))
        line = f'{kind}, {len(detections)} detections: written to {path}'
        MMLogger.get_current_instance().info(printable(line))

    def _evaluate(
        self, truth: COCO, detections: list[dict], kind: str, category_ids: Sequence[int]
    ) -> dict[str, float]:
        """Evaluate, log the summary, draw, and return the numbers."""
        logger = MMLogger.get_current_instance()
        evaluation, summary = evaluate(truth, detections, kind, category_ids)
        logger.info(f'{kind}, {len(detections)} detections:\n{summary}')
        report = {
            f'{kind}_{name}': float(value) for name, value in zip(_STATS, evaluation.stats, strict=True)
        }
        if self.classwise:
            table = class_table(evaluation)
            rows = [[short_name(name), *(f'{value:.3f}' for value in row)] for name, row in table.items()]
            text = AsciiTable([['class', *_STATS[:6]], *rows]).table
            logger.info(f'{kind}, each class:\n{text}')
            report.update({f'{kind}_mAP/{name}': row[0] for name, row in table.items()})
        if self.detailed:
            self.details[kind] = details_of(evaluation)
        if self.plots_dir:
            curves, matrix = (Path(self.plots_dir, name.format(kind)) for name in self.PLOTS)
            plot_precision_recall(curves, evaluation)
            title = f'{KINDS[kind]}: score ≥ {SCORE_THR:g}, IoU ≥ {IOU_THR:g}'
            labels = [*class_names(evaluation), 'background']
            plot_confusions(matrix, count_confusions(evaluation), labels, title)
        return report


def coco_results(found: Mapping[str, Any], kind: str, image_id: int | str) -> Iterator[dict[str, Any]]:
    """Convert the predictions for an image to COCO's result format, with labels for category ids.

    MMDetection also adds the box to the record of a mask; pycocotools then uses the area of the box as that
    of the object.

    Args:
        found: MMDetection's ``pred_instances``, as a dict.
        kind: ``'bbox'`` or ``'segm'``.
        image_id: The image's id in the annotation file.

    Yields:
        ``image_id``, ``category_id`` (the label), ``score``, and ``bbox`` (left, top, width, height) or
        ``segmentation`` (run lengths) of each object.
    """
    scores = found['scores']
    if kind == 'segm':
        scores = found.get('mask_scores', scores)
        shapes = [{'segmentation': encode_mask(mask)} for mask in found['masks'].cpu().numpy()]
    else:
        corners = found['bboxes'].tolist()
        shapes = [{'bbox': [left, top, right - left, low - top]} for left, top, right, low in corners]
    for label, score, shape in zip(found['labels'].tolist(), scores.tolist(), shapes, strict=True):
        yield {'image_id': image_id, 'category_id': label, 'score': score, **shape}


def with_original_ids(truth: COCO, detections: list[dict]) -> list[dict]:
    """Give detections the ids of images and categories that the annotation file had before its repair.

    Args:
        truth: The annotation file, perhaps repaired.
        detections: Records in COCO's result format.
    """
    images = {key: image.get(ORIGINAL_ID, key) for key, image in truth.imgs.items()}
    categories = {key: category.get(ORIGINAL_ID, key) for key, category in truth.cats.items()}
    return [
        {**r, 'image_id': images[r['image_id']], 'category_id': categories[r['category_id']]}
        for r in detections
    ]


def evaluate(
    truth: COCO, detections: list[dict], kind: str, category_ids: Sequence[int]
) -> tuple[COCOeval, str]:
    """Run pycocotools' evaluation.

    Args:
        truth: The annotation file.
        detections: Records in COCO's result format.
        kind: ``'bbox'`` or ``'segm'``.
        category_ids: The categories to evaluate.

    Returns:
        The evaluation, and the summary that pycocotools prints.
    """
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = COCOeval(truth, load_results(truth, detections), kind)
        evaluation.params.catIds = list(category_ids)
        evaluation.evaluate()
        evaluation.accumulate()
    with contextlib.redirect_stdout(io.StringIO()) as summary:
        evaluation.summarize()
    return evaluation, summary.getvalue().rstrip()


def load_results(truth: COCO, detections: list[dict]) -> COCO:
    """Load detections in COCO's result format as ``truth.loadRes`` does, which fails on an empty list."""
    if detections:
        return truth.loadRes(detections)
    nothing = COCO()
    nothing.dataset = {**truth.dataset, 'annotations': []}
    nothing.createIndex()
    return nothing


def class_table(evaluation: COCOeval) -> dict[str, list[float]]:
    """Compute the first six of the twelve numbers for each class.

    Args:
        evaluation: An accumulated evaluation.

    Returns:
        The numbers of :func:`class_rows` by class name.
    """
    return dict(zip(map(printable, class_names(evaluation)), class_rows(evaluation), strict=True))


def class_rows(evaluation: COCOeval) -> list[list[float]]:
    """AP, AP at IoU 0.5 and 0.75, and AP of small, medium and large objects of each class.

    Args:
        evaluation: An accumulated evaluation.

    Returns:
        The numbers of each class; NaN if the class has no such object.
    """
    precision = evaluation.eval['precision']  # [IoU, recall, class, size, detections per image]
    cuts = (np.s_[:, :, 0], np.s_[0, :, 0], np.s_[5, :, 0], *(np.s_[:, :, i] for i in (1, 2, 3)))
    return [
        [_mean(precision[:, :, index, :, -1][cut]) for cut in cuts] for index in range(precision.shape[2])
    ]


def details_of(evaluation: COCOeval) -> KindDetails:
    """What an accumulated evaluation found for each class, without the evaluation itself, which is large."""
    truth = evaluation.cocoGt
    objects = [truth.getAnnIds(catIds=[key], iscrowd=False) for key in evaluation.params.catIds]
    return KindDetails(
        class_names(evaluation),
        [*map(len, objects)],
        class_rows(evaluation),
        np.array(evaluation.params.recThrs),
        precision_of_classes(evaluation).filled(np.nan).T,
        mean_precision(evaluation).filled(np.nan),
        count_confusions(evaluation),
    )


def _mean(precision: np.ndarray) -> float:
    """The mean of the valid values; pycocotools writes −1 if there is no object."""
    known = precision[precision > -1]
    return float(known.mean()) if known.size else float('nan')


def count_confusions(evaluation: COCOeval) -> np.ndarray:
    """Count the predicted classes of the objects of each class.

    pycocotools matches the detections again, best first and regardless of class: each is matched with the
    object that it overlaps most. Crowds and the detections in them do not count.

    Args:
        evaluation: A finished evaluation.

    Returns:
        ``(classes + 1, classes + 1)``: the true class by row, the predicted one by column, in the order of
        the evaluation. The last column counts missed objects, the last row detections without an object.
    """
    indices = {category: index for index, category in enumerate(evaluation.params.catIds)}
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        annotations = [a for a in evaluation.cocoGt.dataset['annotations'] if a['category_id'] in indices]
        truth.dataset = {**evaluation.cocoGt.dataset, 'annotations': annotations}
        truth.createIndex()
        matching = COCOeval(truth, evaluation.cocoDt, evaluation.params.iouType)
        matching.params.useCats = 0
        matching.params.iouThrs = np.array([IOU_THR])
        matching.params.areaRng = matching.params.areaRng[:1]  # objects of all sizes
        matching.evaluate()
    counts = np.zeros((len(indices) + 1, len(indices) + 1), int)
    for image in filter(None, matching.evalImgs):
        for true, predicted in _pairs(matching, image):
            counts[indices.get(true, -1), indices.get(predicted, -1)] += 1
    return counts


def _pairs(matching: COCOeval, image: dict) -> Iterator[tuple[int | None, int | None]]:
    """The true and the predicted category of each object in an image; None for background.

    A detection never loses its object to one of a lower score, so low scores can be removed after matching.
    """
    truth, detections = matching.cocoGt.anns, matching.cocoDt.anns
    ignored = dict(zip(image['dtIds'], image['dtIgnore'][0], strict=True))
    counted = {i for i in image['dtIds'] if detections[i]['score'] >= SCORE_THR and not ignored[i]}
    matches = [int(match) for match in image['gtMatches'][0]]  # 0 for no match; ids of detections start at 1
    for object_id, match, is_crowd in zip(image['gtIds'], matches, image['gtIgnore'], strict=True):
        if not is_crowd:
            predicted = detections[match]['category_id'] if match in counted else None
            yield truth[object_id]['category_id'], predicted
    for detection in counted.difference(matches):
        yield None, detections[detection]['category_id']
