"""Turn the toolboxes' data samples into records for JSON files."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from mmengine.structures import BaseDataElement
from pycocotools import mask as coco_mask
from torch import Tensor

TOP = 5  # the best classes of an image that are listed


def object_records(
    sample: BaseDataElement, classes: Sequence[str], size: tuple[int, int], score_thr: float
) -> list[dict[str, Any]]:
    """List the objects that a detector found in an image.

    Args:
        sample: MMDetection's data sample.
        classes: The class names.
        size: The image's height and width; boxes are clipped to it.
        score_thr: Objects of a lower score are omitted.

    Returns:
        ``label``, ``name``, ``score``, ``bbox`` (left, top, width, height in pixels) and, for a model with
        masks, ``mask`` (COCO's run lengths) of each object, the best first.
    """
    found = sample.pred_instances
    order = found.scores.argsort(descending=True)
    order = order[found.scores[order] >= score_thr]
    corners = found.bboxes[order].float().cpu().numpy().reshape(-1, 2, 2)  # [N, 2 corners, xy]
    corners = corners.clip(0, size[::-1])
    boxes = np.concatenate([corners[:, 0], corners[:, 1] - corners[:, 0]], 1)
    labels, scores = found.labels[order].tolist(), found.scores[order].tolist()
    records = [
        {
            'label': label,
            'name': classes[label],
            'score': round(score, 4),
            'bbox': [round(float(value), 2) for value in box],
        }
        for label, score, box in zip(labels, scores, boxes, strict=True)
    ]
    if 'masks' in found:
        for record, index in zip(records, order.tolist(), strict=True):
            record['mask'] = encode_mask(found.masks[index].cpu().numpy())
    return records


def encode_mask(mask: np.ndarray) -> dict[str, Any]:
    """Encode a mask ``(H, W)`` in COCO's compressed run lengths, ready for JSON."""
    encoded = coco_mask.encode(np.asfortranarray(mask, np.uint8))
    return {'size': encoded['size'], 'counts': encoded['counts'].decode()}


def label_array(labels: Tensor) -> np.ndarray:
    """The labels of an MMSegmentation data sample as an array.

    Args:
        labels: ``(1, H, W)``, or ``(H, W)`` from test-time augmentation.

    Returns:
        ``(H, W)``.
    """
    return labels.reshape(labels.shape[-2:]).long().cpu().numpy()


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


def best_classes(scores: Tensor, count: int = TOP) -> list[tuple[list[int], list[float]]]:
    """Find the best classes of each image; of equal scores, the first label is the better one.

    As in MMPretrain, a score must be above 0 to count, so that an image with NaN has no class.

    Args:
        scores: ``(N, classes)``.
        count: How many classes to find.

    Returns:
        Labels and scores of each image, the best first.
    """
    scores, labels = scores.float().sort(dim=1, descending=True, stable=True)
    pairs = zip(labels[:, :count].cpu(), scores[:, :count].cpu(), strict=True)
    return [(found[best > 0].tolist(), best[best > 0].tolist()) for found, best in pairs]


def predicted_classes(sample: BaseDataElement) -> tuple[list[int], list[float]]:
    """Labels and scores of the :data:`TOP` best classes of an MMPretrain data sample."""
    return best_classes(sample.pred_score[None])[0]


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
