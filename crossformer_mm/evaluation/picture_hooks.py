"""Draw the images of a test while it runs."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmengine.structures import BaseDataElement

from ..data.exif import ignores_exif
from .class_pictures import save_classified
from .detection_pictures import DrawnObject, colour_of, drawn_objects, save_objects
from .pictures import read_picture
from .records import best_classes, class_record, object_records
from .samples import label_array, predicted_objects, score_array
from .segmentation_pictures import SegmentedImage, save_segments


class PicturesHook(Hook):
    """Draws a picture of each tested image.

    Args:
        folder: The folder for the pictures.
        names: The name of the picture of each image path.
    """

    def __init__(self, folder: str | Path, names: Mapping[str, str]) -> None:
        self.folder = Path(folder)
        self.names = names

    def after_test_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Sequence[Any] | None = None
    ) -> None:
        """Draw a batch."""
        meta = runner.test_dataloader.dataset.metainfo
        ignore_exif = ignores_exif(runner.cfg.test_dataloader)
        for sample in outputs:
            picture = read_picture(sample.img_path, ignore_exif)
            self.draw(self.folder / self.names[sample.img_path], picture, sample, meta)

    def draw(self, path: Path, picture: np.ndarray, sample: BaseDataElement, meta: Mapping[str, Any]) -> None:
        """Draw an image.

        Args:
            path: The PNG file.
            picture: The image, RGB, ``(H, W, 3)``, uint8.
            sample: The toolbox's data sample, with the prediction and possibly the ground truth.
            meta: The dataset's ``metainfo``.
        """
        raise NotImplementedError


class ObjectPicturesHook(PicturesHook):
    """Draws the objects of each tested image, the ground truth left of the prediction.

    Args:
        folder: The folder for the pictures.
        names: The name of the picture of each image path.
        score_thr: Objects of a lower score are left out.
    """

    def __init__(self, folder: str | Path, names: Mapping[str, str], score_thr: float) -> None:
        super().__init__(folder, names)
        self.score_thr = score_thr

    def draw(self, path: Path, picture: np.ndarray, sample: BaseDataElement, meta: Mapping[str, Any]) -> None:
        """Draw an image."""
        classes = meta['classes']
        records = object_records(predicted_objects(sample), classes, picture.shape[:2], self.score_thr)
        panels = {'prediction': (picture, drawn_objects(records))}
        if 'gt_instances' in sample:
            truth = (picture, true_objects(sample.gt_instances, classes))
            panels = {'ground truth': truth, **panels}
        save_objects(path, list(panels.values()), columns=len(panels), titles=list(panels))


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


class SegmentPicturesHook(PicturesHook):
    """Draws the classes of each tested image, the ground truth left of the prediction."""

    def draw(self, path: Path, picture: np.ndarray, sample: BaseDataElement, meta: Mapping[str, Any]) -> None:
        """Draw an image."""
        maps = [sample.gt_sem_seg] if 'gt_sem_seg' in sample else []
        labels = [label_array(pixels.data) for pixels in (*maps, sample.pred_sem_seg)]
        save_segments(path, [SegmentedImage(picture, labels)], meta['classes'], meta['palette'])


class ClassPicturesHook(PicturesHook):
    """Draws each tested image with its best classes and the true one."""

    def draw(self, path: Path, picture: np.ndarray, sample: BaseDataElement, meta: Mapping[str, Any]) -> None:
        """Draw an image."""
        classes, truth = meta['classes'], int(sample.gt_label)
        record = class_record(*best_classes(score_array(sample.pred_score)), classes)
        save_classified(path, picture, record, truth, classes[truth])
