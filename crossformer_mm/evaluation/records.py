"""Turn predictions into records for JSON files."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from ..deploy.masks import MaskPart, part_of
from ..deploy.predictions import Objects

TOP = 5  # the best classes of an image that are listed


def object_records(
    found: Objects, classes: Sequence[str], size: tuple[int, int], score_thr: float
) -> list[dict[str, Any]]:
    """List the objects that a detector found in an image.

    Args:
        found: The objects.
        classes: The class names.
        size: The image's height and width; boxes are clipped to it.
        score_thr: Objects of a lower score are omitted.

    Returns:
        ``label``, ``name``, ``score``, ``bbox`` (left, top, width, height in pixels) and, for a model with
        masks, ``mask`` (COCO's run lengths) of each object, the best first.
    """
    corners = found.boxes.reshape(-1, 2, 2).clip(0, size[::-1])  # [N, 2 corners, xy]
    boxes = np.concatenate([corners[:, 0], corners[:, 1] - corners[:, 0]], 1)
    records = []
    for index in np.flatnonzero(found.scores >= score_thr):
        label = int(found.labels[index])
        record = {
            'label': label,
            'name': classes[label],
            'score': round(float(found.scores[index]), 4),
            'bbox': [round(float(value), 2) for value in boxes[index]],
        }
        if found.masks is not None:
            record['mask'] = encode_part(part_of(found.masks, index), size)
        records.append(record)
    return records


def encode_mask(mask: np.ndarray) -> dict[str, Any]:
    """Encode a mask ``(H, W)`` in COCO's compressed run lengths, ready for JSON."""
    encoded = coco_mask.encode(np.asfortranarray(mask, np.uint8))
    return {'size': encoded['size'], 'counts': encoded['counts'].decode()}


def encode_part(part: MaskPart, size: tuple[int, int]) -> dict[str, Any]:
    """Encode the mask of an image of a height and width as :func:`encode_mask` does, but only from a part.

    With many objects in an image of 100 megapixels, whole masks would take minutes.
    """
    height, width = size
    columns = np.zeros((part.pixels.shape[1], height), np.int8)  # run lengths go down the columns
    columns[:, part.top : part.top + part.pixels.shape[0]] = part.pixels.T
    changes = np.flatnonzero(np.diff(columns.ravel(), prepend=0, append=0)) + part.left * height
    counts = np.diff([0, *changes, height * width])
    counts = counts[: len(counts) - (len(changes) > 0 and counts[-1] == 0)]
    encoded = coco_mask.frPyObjects({'size': [height, width], 'counts': counts.tolist()}, height, width)
    return {'size': encoded['size'], 'counts': encoded['counts'].decode()}


def segment_records(labels: np.ndarray, classes: Sequence[str]) -> list[dict[str, Any]]:
    """List the classes in a label map.

    Args:
        labels: ``(H, W)``.
        classes: The class names.

    Returns:
        ``label``, ``name`` and ``pixels`` of each class that occurs, the largest first.
    """
    found, counts = np.unique(labels, return_counts=True)
    pairs = sorted(zip(counts.tolist(), found.tolist(), strict=True), reverse=True)
    return [{'label': label, 'name': classes[label], 'pixels': pixels} for pixels, label in pairs]


def best_classes(scores: np.ndarray, count: int = TOP) -> tuple[list[int], list[float]]:
    """Find the best classes of an image; of equal scores, the first label is the better one.

    As in MMPretrain, a score must be above 0 to count, so that an image with NaN has no class.

    Args:
        scores: ``(classes,)``.
        count: How many classes to find.

    Returns:
        Labels and scores, the best first.
    """
    labels = np.argsort(-scores, kind='stable')[:count]
    labels = labels[scores[labels] > 0]
    return labels.tolist(), scores[labels].tolist()


def class_record(labels: Sequence[int], scores: Sequence[float], classes: Sequence[str]) -> dict[str, Any]:
    """Describe the predicted class of an image and the next best ones.

    Args:
        labels: Labels of the best classes, the best first.
        scores: Their scores.
        classes: The class names.

    Returns:
        ``label``, ``name`` and ``score`` of the predicted class (None if there is none), and the same of all
        the classes in ``top``.
    """
    top = [
        {'label': label, 'name': classes[label], 'score': round(score, 4)}
        for label, score in zip(labels, scores, strict=True)
    ]
    return {**(top[0] if top else dict.fromkeys(('label', 'name', 'score'))), 'top': top}
