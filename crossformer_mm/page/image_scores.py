"""Score each image of a validation, and keep what is needed to show the best and the worst ones.

Of all images, only a number is computed; what a page shows is kept of a few, without masks in full size.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import cv2
import numpy as np
from mmengine.structures import BaseDataElement
from pycocotools import mask as coco_mask

from ..data.label_check import IGNORED
from ..deploy.predictions import Objects
from ..evaluation.coco_report import IOU_THR, SCORE_THR
from ..evaluation.records import best_classes
from ..evaluation.samples import label_array, predicted_objects, score_array

SIDE = 512  # largest side of a picture in pixels
_OBJECTS = 100  # of an image at most
_LISTED = 3  # classes of an image
# The scores of images, by the type of their ground truth.
_MEANINGS = {
    list: 'twice the objects that are found, divided by the number of true objects and of detections (F1).'
    f' Detections with a score of at least {SCORE_THR:g} count; each finds at most one object, of its class,'
    f' whose box it overlaps with an IoU of at least {IOU_THR:g}. Images without any object and detection are'
    ' left out',
    np.ndarray: 'the mean IoU of the classes in its ground truth',
    int: 'the score that is predicted for its true class',
}


class Outline(NamedTuple):
    """An object in an image."""

    label: int
    score: float | None
    """None for an object of the ground truth."""
    box: Sequence[float]
    """Left, top, right and bottom in pixels."""
    shapes: Sequence[np.ndarray]
    """The outlines of its mask, ``(points, 2)`` each; none without a mask."""


class ShownImage(NamedTuple):
    """An image with its ground truth and prediction, small enough to be sent to another process.

    Both are objects, small label maps, or labels with their scores.
    """

    path: str
    score: float
    truth: list[Outline] | np.ndarray | int
    found: list[Outline] | np.ndarray | list[tuple[int, float]]


class Extremes:
    """The best and the worst images of a validation, of equal ones the first.

    Args:
        most: How many of each to keep.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self.images = 0
        self._best: list[tuple[tuple[float, float], ShownImage]] = []
        self._worst: list[tuple[tuple[float, float], ShownImage]] = []

    def add(self, sample: BaseDataElement) -> None:
        """Score an image.

        Args:
            sample: A toolbox's data sample with ground truth and prediction; others are left out.
        """
        scored = _score(sample)
        if scored is None:
            return
        self.images += 1
        rank, show = scored
        if any(len(kept) < self.most or r(rank, kept[-1][0]) for kept, r in self._kept()):
            self._insert(rank, ShownImage(sample.img_path, rank[0], *show()))

    def merge(self, other: 'Extremes') -> None:
        """Take over the images of another process."""
        for rank, image in other._best + other._worst:
            self._insert(rank, image)
        self.images += other.images

    def meaning(self) -> str:
        """What the score of an image is; empty without images."""
        return _MEANINGS[type(self._worst[0][1].truth)] if self._worst else ''

    def best(self) -> list[ShownImage]:
        """The best images, the best first; of few images, none that is among the worst."""
        worst = {image.path for image in self.worst()}
        return [image for _, image in self._best if image.path not in worst]

    def worst(self) -> list[ShownImage]:
        """The worst images, the worst first; of few images, at most half of them."""
        return [image for _, image in self._worst[: -(-self.images // 2)]]

    def _kept(self) -> tuple:
        return (self._best, tuple.__gt__), (self._worst, tuple.__lt__)

    def _insert(self, rank: tuple[float, float], image: ShownImage) -> None:
        for kept, better in self._kept():
            if all(image.path != other.path for _, other in kept):  # other processes may have it too
                place = next((i for i, (r, _) in enumerate(kept) if better(rank, r)), len(kept))
                kept.insert(place, (rank, image))
                del kept[self.most :]


def _score(sample: BaseDataElement) -> tuple[tuple[float, float], Callable[[], tuple]] | None:
    """The rank of an image, larger for a better one, and a function that returns what to show of it."""
    if not isinstance(sample, BaseDataElement) or not sample.get('img_path'):
        return None
    if 'pred_instances' in sample and 'bboxes' in sample.get('gt_instances', ()):
        return _score_objects(sample)
    if 'pred_sem_seg' in sample and 'gt_sem_seg' in sample:
        return _score_labels(sample)
    if 'pred_score' in sample and sample.get('gt_label') is not None and sample.gt_label.numel() == 1:
        return _score_class(sample)
    return None


def _score_class(sample: BaseDataElement) -> tuple:
    scores, truth = score_array(sample.pred_score), int(sample.gt_label)
    known = math.isfinite(scores[truth])
    return (float(scores[truth]) if known else 0.0, float(known)), lambda: (
        truth,
        [*zip(*best_classes(scores, _LISTED), strict=True)],
    )


def _score_labels(sample: BaseDataElement) -> tuple | None:
    truth, found = (label_array(part.data) for part in (sample.gt_sem_seg, sample.pred_sem_seg))
    counted = truth != IGNORED
    classes, index, pixels = np.unique(truth[counted], return_inverse=True, return_counts=True)
    if not len(classes):
        return None
    right = np.bincount(index, found[counted] == truth[counted], len(classes))
    predicted = np.array([np.count_nonzero(found[counted] == label) for label in classes])
    iou = (right / (pixels + predicted - right)).mean()
    return (float(iou), float(right.sum() / pixels.sum())), lambda: (small_map(truth), small_map(found))


def small_map(labels: np.ndarray) -> np.ndarray:
    """A label map with sides of at most :data:`SIDE`."""
    scale = min(1, SIDE / max(labels.shape))
    size = [max(1, round(side * scale)) for side in labels.shape[::-1]]
    return cv2.resize(labels.astype(np.uint16), size, interpolation=cv2.INTER_NEAREST)


def _score_objects(sample: BaseDataElement) -> tuple | None:
    found = predicted_objects(sample)
    count = int((found.scores >= SCORE_THR).sum())  # the best come first; NaN is not counted
    truth, crowds = _true_boxes(sample.gt_instances), _true_boxes(sample.get('ignored_instances'))
    hits, crowded = match(found, count, truth, crowds)
    total = count - crowded + len(truth[1])
    if not total:
        return None
    mistakes = total - 2 * hits
    return (2 * hits / total, float(hits - mistakes)), lambda: (
        _true_objects(sample.gt_instances),
        _found_objects(found, count),
    )


def _true_boxes(instances: BaseDataElement | None) -> tuple[np.ndarray, np.ndarray]:
    if instances is None or 'bboxes' not in instances:
        return np.zeros((0, 4)), np.zeros(0, int)
    boxes = getattr(instances.bboxes, 'tensor', instances.bboxes)
    return boxes.reshape(-1, 4).double().cpu().numpy(), instances.labels.cpu().numpy()


def match(
    found: Objects, count: int, truth: tuple[np.ndarray, np.ndarray], crowds: tuple[np.ndarray, np.ndarray]
) -> tuple[int, int]:
    """Match detections with objects of their class, the best first.

    Args:
        found: The detections, the best first.
        count: How many of them count.
        truth: Boxes and labels of the objects.
        crowds: Boxes and labels of crowds.

    Returns:
        The number of objects that were found, and of detections in crowds.
    """
    boxes, labels = (np.concatenate(parts) for parts in zip(truth, crowds, strict=True))
    is_crowd = [0] * len(truth[1]) + [1] * len(crowds[1])
    if not count or not len(boxes):
        return 0, 0
    ious = coco_mask.iou(_sizes(found.boxes[:count]), _sizes(boxes), is_crowd)
    ious = np.where(found.labels[:count, None] == labels, ious, 0)
    hits = crowded = 0
    for row in ious:
        objects = row[: len(truth[1])]
        if objects.size and objects.max() >= IOU_THR:
            hits += 1
            ious[:, objects.argmax()] = 0
        elif row.max() >= IOU_THR:
            crowded += 1
    return hits, crowded


def _sizes(corners: np.ndarray) -> np.ndarray:
    """Left, top, width and height of boxes."""
    return np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], 1).astype(float)


def _true_objects(instances: BaseDataElement) -> list[Outline]:
    boxes, labels = _true_boxes(instances)
    chosen = slice(0, _OBJECTS)
    masks = instances.masks[:_OBJECTS].to_ndarray() if 'masks' in instances else [None] * len(boxes)
    pairs = zip(labels[chosen].tolist(), boxes[chosen].tolist(), masks, strict=False)
    return [Outline(label, None, box, outlines(mask)) for label, box, mask in pairs]


def _found_objects(found: Objects, count: int) -> list[Outline]:
    """The objects, the best last, which is drawn on top."""
    return [
        Outline(
            int(found.labels[i]),
            float(found.scores[i]),
            found.boxes[i].tolist(),
            outlines(None if found.masks is None else found.masks[i]),
        )
        for i in reversed(range(min(count, _OBJECTS)))
    ]


def outlines(mask: np.ndarray | None) -> list[np.ndarray]:
    """The outlines of a mask, as exact as a picture shows them; none without a mask."""
    if mask is None:
        return []
    pixels = np.ascontiguousarray(mask, np.uint8)
    found, _ = cv2.findContours(pixels, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    tolerance = max(mask.shape) / SIDE / 2  # half a pixel of the picture
    return [cv2.approxPolyDP(outline, tolerance, closed=True)[:, 0] for outline in found]
