"""How much the objects that an exported file finds in an image differ from those that PyTorch finds."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch

from ..deploy.masks import PastedMasks

LEAST_SCORE = 0.05  # objects with a lower one may be missing
_LEAST_IOU = 0.5  # of two boxes of one object


class ObjectDifferences(NamedTuple):
    """The differences of the objects in an image."""

    objects: int
    """How many PyTorch finds, of those that may not be missing."""
    alone: int
    """How many only one of the two finds."""
    scores: float
    """The largest difference of the scores of one object."""
    boxes: float
    """The largest difference of an edge of its boxes, in pixels."""
    mask_pixels: int
    """How many pixels of masks differ, of all objects."""
    box_pixels: float
    """How many pixels the boxes of these have."""


def compare_objects(
    ours: Mapping[str, np.ndarray],
    theirs: Mapping[str, np.ndarray],
    size: tuple[int, int],
    tolerance: float,
    farthest: float = np.inf,
) -> ObjectDifferences:
    """Compare the objects in an image.

    Args:
        ours: ``boxes``, ``scores``, ``labels`` and perhaps ``masks`` that a file outputs.
        theirs: ``bboxes``, ``scores``, ``labels`` and perhaps ``masks`` that the model in PyTorch predicts.
        size: Height and width of the image.
        tolerance: By how much scores may differ; an object as close to the lowest score may be missing.
        farthest: The largest difference of an edge, in pixels, of boxes of one object. Where boxes overlap,
            rounding may decide which of them remains.
    """
    pairs = _pairs(ours, theirs, farthest)
    mine, other = (list(side) for side in zip(*pairs, strict=True)) if pairs else ([], [])
    limit = LEAST_SCORE
    if len(theirs['scores']) == len(ours['scores']):  # there may be more objects, which have no place
        limit = max(limit, theirs['scores'].min(initial=1))
    alone = sum(
        (np.delete(scores, paired) >= limit + tolerance).sum()
        for scores, paired in ((ours['scores'], mine), (theirs['scores'], other))
    )
    boxes = theirs['bboxes'][other]
    different = 0
    if 'masks' in theirs:
        pasted = PastedMasks(ours['masks'][mine], ours['boxes'][mine], size)
        different = sum((a != b).sum() for a, b in zip(pasted, theirs['masks'][other], strict=True))
    return ObjectDifferences(
        objects=int((theirs['scores'] >= limit + tolerance).sum()),
        alone=int(alone),
        scores=_largest(ours['scores'][mine] - theirs['scores'][other]),
        boxes=_largest(ours['boxes'][mine] - boxes),
        mask_pixels=int(different),
        box_pixels=float((boxes[:, 2:] - boxes[:, :2]).prod(1).sum()),
    )


def _pairs(
    ours: Mapping[str, np.ndarray], theirs: Mapping[str, np.ndarray], farthest: float
) -> list[tuple[int, int]]:
    """Which objects are the same: of one label, with the closest of the boxes that overlap enough."""
    from mmdet.structures.bbox import bbox_overlaps  # other toolboxes may be without it

    overlaps = bbox_overlaps(
        *(torch.from_numpy(boxes) for boxes in (theirs['bboxes'], ours['boxes']))
    ).numpy()
    distances = np.abs(theirs['bboxes'][:, None] - ours['boxes']).max(-1)
    close = (overlaps >= _LEAST_IOU) & (distances <= farthest)
    same = close & (theirs['labels'][:, None] == ours['labels'])
    pairs = []
    for j, (is_same, distance) in enumerate(zip(same, distances, strict=True)):
        if is_same.any():
            i = int(np.where(is_same, distance, np.inf).argmin())
            same[:, i] = False
            pairs.append((i, j))
    return pairs


def _largest(differences: np.ndarray) -> float:
    return float(np.abs(differences).max(initial=0))
