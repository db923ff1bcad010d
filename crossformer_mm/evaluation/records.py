"""From the toolboxes' data samples to records for a JSON file."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from mmengine.structures import BaseDataElement
from pycocotools import mask as coco_mask

from ..data.label_maps import label_array


def object_records(
    sample: BaseDataElement, classes: Sequence[str], size: tuple[int, int], score_thr: float
) -> list[dict[str, Any]]:
    """What a detector found in an image.

    Args:
        sample: MMDetection's data sample.
        classes: Their names.
        size: The image's height and width; what lies beyond is cut off.
        score_thr: Objects of a lower score are left out.

    Returns:
        ``label``, ``name``, ``score``, ``bbox`` (left, top, width, height in pixels) and, of a model with
        masks, ``mask`` (COCO's run lengths) of each object, the best first.
    """
    found = sample.pred_instances.cpu()
    found = found[found.scores >= score_thr]
    found = found[found.scores.argsort(descending=True)]
    corners = found.bboxes.float().numpy().reshape(-1, 2, 2).clip(0, size[::-1])  # [N, 2 corners, xy]
    boxes = np.concatenate([corners[:, 0], corners[:, 1] - corners[:, 0]], 1)
    records = [
        {
            'label': label,
            'name': classes[label],
            'score': round(score, 4),
            'bbox': [round(float(value), 2) for value in box],
        }
        for label, score, box in zip(found.labels.tolist(), found.scores.tolist(), boxes, strict=True)
    ]
    if 'masks' in found:
        for record, mask in zip(records, found.masks.numpy(), strict=True):
            record['mask'] = encode(mask[: size[0], : size[1]])
    return records


def encode(mask: np.ndarray) -> dict[str, Any]:
    """A mask ``(H, W)`` in COCO's compressed run lengths, as JSON takes them."""
    encoded = coco_mask.encode(np.asfortranarray(mask, np.uint8))
    return {'size': encoded['size'], 'counts': encoded['counts'].decode()}


def label_map(sample: BaseDataElement, size: tuple[int, int]) -> np.ndarray:
    """What a segmentor found in an image.

    Args:
        sample: MMSegmentation's data sample.
        size: The image's height and width; what lies beyond is cut off.

    Returns:
        A label a pixel, ``(H, W)``.
    """
    return label_array(sample.pred_sem_seg.data)[: size[0], : size[1]]


def segment_records(labels: np.ndarray, classes: Sequence[str]) -> list[dict[str, Any]]:
    """The classes in a label map.

    Args:
        labels: ``(H, W)``.
        classes: Their names.

    Returns:
        ``label``, ``name`` and ``pixels`` of each class that occurs, the largest first.
    """
    found, counts = np.unique(labels, return_counts=True)
    pairs = sorted(zip(counts.tolist(), found.tolist(), strict=True), reverse=True)
    return [{'label': label, 'name': classes[label], 'pixels': pixels} for pixels, label in pairs]
