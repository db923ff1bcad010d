"""Merge the objects that a detector finds in overlapping tiles of an image."""

from collections.abc import Iterable, Sequence

import numpy as np

from .masks import MaskPart, MaskParts, part_of
from .predictions import Objects, Tile

_SAME = 0.5  # two objects are one if more of the smaller one lies in the other


def merge_objects(
    size: tuple[int, int], tiles: Sequence[Tile], found: Iterable[Objects], score_thr: float = 0.0
) -> Objects:
    """Merge the objects of tiles.

    Args:
        size: Height and width of the image.
        tiles: The rows and columns of each tile.
        found: The objects in each tile, in its own pixels.
        score_thr: Objects of a lower score are left out.

    Returns:
        The objects, in pixels of the image. Those of one class in different tiles become one if more than
        half of the smaller one lies in the other: with the union of boxes and masks, and the best score.
    """
    parts = [_placed(objects, tile, score_thr) for tile, objects in zip(tiles, found, strict=True)]
    sources = np.repeat(np.arange(len(parts)), [len(part.scores) for part in parts])
    order = np.argsort(-np.concatenate([part.scores for part in parts]), kind='stable')
    boxes, scores, labels = (
        np.concatenate([getattr(part, name) for part in parts])[order]
        for name in ('boxes', 'scores', 'labels')
    )
    masks = None if parts[0].masks is None else [part for objects in parts for part in objects.masks]
    masks = masks and [masks[index] for index in order]
    groups = _groups(boxes, labels, sources[order], masks)
    best = [group[0] for group in groups]
    if masks is not None:
        masks = MaskParts([_union([masks[index] for index in group]) for group in groups], size)
    boxes = np.array([_hull(boxes[group]) for group in groups], np.float32).reshape(-1, 4)
    return Objects(boxes, scores[best], labels[best], masks)


def _placed(found: Objects, tile: Tile, score_thr: float) -> Objects:
    """The objects of a tile in the pixels of the image, with :class:`MaskPart` as masks."""
    top, left = (part.start for part in tile)
    kept = np.flatnonzero(found.scores >= score_thr)
    masks = None
    if found.masks is not None:
        parts = [part_of(found.masks, index) for index in kept]
        masks = [part._replace(top=part.top + top, left=part.left + left) for part in parts]
    corner = np.array([left, top] * 2, np.float32)
    return Objects(found.boxes[kept] + corner, found.scores[kept], found.labels[kept], masks)


def _groups(
    boxes: np.ndarray, labels: np.ndarray, sources: np.ndarray, masks: Sequence[MaskPart] | None
) -> list[list[int]]:
    """Find which objects, given the best first, are the same one."""
    free = np.ones(len(boxes), bool)
    groups = []
    for first in range(len(boxes)):
        if not free[first]:
            continue
        free[first] = False
        group = [first]
        for member in group:  # which grows: an object may lie in several tiles
            near = free & (labels == labels[member]) & (sources != sources[member])
            near[near] = _shares(boxes[member], boxes[near]) > 0
            same = [index for index in np.flatnonzero(near) if _is_same(member, index, boxes, masks)]
            free[same] = False
            group += same
        groups.append(group)
    return groups


def _is_same(one: int, other: int, boxes: np.ndarray, masks: Sequence[MaskPart] | None) -> bool:
    """Whether more than a share of the smaller of two objects lies in the other."""
    if masks is None:
        return _shares(boxes[one], boxes[[other]])[0] > _SAME
    small, large = sorted((masks[one], masks[other]), key=lambda part: part.pixels.sum())
    area = small.pixels.sum()
    height, width = small.pixels.shape
    common = large.within(small.top, small.left, small.top + height, small.left + width)
    return area > 0 and (small.pixels & common).sum() > _SAME * area


def _shares(box: np.ndarray, others: np.ndarray) -> np.ndarray:
    """The share of the smaller box of each pair that lies in the other one."""
    low, high = np.maximum(box[:2], others[:, :2]), np.minimum(box[2:], others[:, 2:])
    areas = [np.prod(part[..., 2:] - part[..., :2], axis=-1) for part in (box, others)]
    common = np.prod((high - low).clip(0), axis=1)
    return common / np.minimum(*areas).clip(np.finfo(np.float32).tiny)


def _hull(boxes: np.ndarray) -> np.ndarray:
    """The smallest box that contains all."""
    return np.concatenate([boxes[:, :2].min(0), boxes[:, 2:].max(0)])


def _union(parts: Sequence[MaskPart]) -> MaskPart:
    """The pixels that are in any of the masks."""
    filled = [part for part in parts if part.pixels.size]
    if len(filled) < 2:
        return filled[0] if filled else parts[0]
    top, left = min(part.top for part in filled), min(part.left for part in filled)
    low = max(part.top + part.pixels.shape[0] for part in filled)
    right = max(part.left + part.pixels.shape[1] for part in filled)
    pixels = np.any([part.within(top, left, low, right) for part in filled], axis=0)
    return MaskPart(top, left, pixels)
