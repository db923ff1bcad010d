"""Draw the images of a test while it runs, and predictions of any toolbox."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmengine.structures import BaseDataElement

from ..data.exif import ignores_exif
from .class_pictures import classified_figure
from .detection_pictures import DrawnObject, colour_of, drawn_objects, objects_figure
from .pictures import figure_array, fitting_dpi, read_picture, save_figure
from .records import best_classes, class_record
from .samples import label_array, predicted_objects, score_array
from .segmentation_pictures import SegmentedImage, segments_figure

SCORE_THR = 0.3  # MMDetection's lowest score of drawn objects


class PicturesHook(Hook):
    """Draws a picture of each tested image.

    Args:
        folder: The folder for the pictures.
        names: The name of the picture of each image path.
        score_thr: Objects of a lower score are left out.
    """

    def __init__(self, folder: str | Path, names: Mapping[str, str], score_thr: float) -> None:
        self.folder = Path(folder)
        self.names = names
        self.score_thr = score_thr

    def after_test_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Sequence[Any] | None = None
    ) -> None:
        """Draw a batch."""
        meta = runner.test_dataloader.dataset.metainfo
        ignore_exif = ignores_exif(runner.cfg.test_dataloader)
        for sample in outputs:
            picture = read_picture(sample.img_path, ignore_exif)
            figure = sample_figure(picture, sample, meta, self.score_thr)
            save_figure(figure, self.folder / self.names[sample.img_path], fitting_dpi([picture.shape]))


def lowest_score(cfg: Config) -> float:
    """The lowest score of drawn objects that a config sets for MMDetection's hook."""
    return (cfg.get('default_hooks', {}).get('visualization') or {}).get('score_thr', SCORE_THR)


def sample_picture(
    sample: BaseDataElement, meta: Mapping[str, Any], ignore_exif: bool = False, score_thr: float = SCORE_THR
) -> np.ndarray:
    """Draw a predicted image into an array, RGB, ``(H, W, 3)``, uint8.

    Args:
        sample: The toolbox's data sample, with the prediction and possibly the ground truth.
        meta: The dataset's ``metainfo``.
        ignore_exif: Do not turn the image as its EXIF data says.
        score_thr: Objects of a lower score are left out.
    """
    picture = read_picture(sample.img_path, ignore_exif)
    return figure_array(sample_figure(picture, sample, meta, score_thr))


def sample_figure(
    picture: np.ndarray, sample: BaseDataElement, meta: Mapping[str, Any], score_thr: float
) -> Figure:
    """Draw a predicted image, the ground truth left of the prediction.

    Args:
        picture: The image, RGB, ``(H, W, 3)``, uint8.
        sample: The toolbox's data sample, with the prediction and possibly the ground truth.
        meta: The dataset's ``metainfo``.
        score_thr: Objects of a lower score are left out.
    """
    if 'pred_sem_seg' in sample:
        return _segments(picture, sample, meta)
    if 'pred_score' in sample:
        return _classes(picture, sample, meta)
    return _objects(picture, sample, meta, score_thr)


def _objects(
    picture: np.ndarray, sample: BaseDataElement, meta: Mapping[str, Any], score_thr: float
) -> Figure:
    classes = meta['classes']
    found = drawn_objects(predicted_objects(sample), classes, picture.shape[:2], score_thr)
    panels = {'prediction': (picture, found)}
    if 'gt_instances' in sample:
        truth = (picture, true_objects(sample.gt_instances, classes))
        panels = {'ground truth': truth, **panels}
    return objects_figure(list(panels.values()), columns=len(panels), titles=list(panels))


def true_objects(found: BaseDataElement, classes: Sequence[str]) -> list[DrawnObject]:
    """Prepare the ground truth of an image for drawing.

    Args:
        found: MMDetection's ``gt_instances``.
        classes: The class names.
    """
    boxes = getattr(found.bboxes, 'tensor', found.bboxes).reshape(-1, 4).tolist()
    masks = found.masks.to_ndarray() if 'masks' in found else [None] * len(boxes)
    return [
        DrawnObject(classes[label], colour_of(label), [left, top, right - left, low - top], mask)
        for label, (left, top, right, low), mask in zip(found.labels.tolist(), boxes, masks, strict=True)
    ]


def _segments(picture: np.ndarray, sample: BaseDataElement, meta: Mapping[str, Any]) -> Figure:
    maps = [sample.gt_sem_seg] if 'gt_sem_seg' in sample else []
    labels = [label_array(pixels.data) for pixels in (*maps, sample.pred_sem_seg)]
    return segments_figure([SegmentedImage(picture, labels)], meta['classes'], meta['palette'])


def _classes(picture: np.ndarray, sample: BaseDataElement, meta: Mapping[str, Any]) -> Figure:
    classes, truth = meta['classes'], int(sample.gt_label)
    record = class_record(*best_classes(score_array(sample.pred_score)), classes)
    return classified_figure(picture, record, truth, classes[truth])
