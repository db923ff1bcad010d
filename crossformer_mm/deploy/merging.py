"""Merge the objects that a detector finds in overlapping tiles of an image."""

from collections.abc import Iterable, Sequence

import numpy as np

from .masks import MaskPart, MaskParts, part_of
from .predictions import Objects, Tile

_SAME = 0.5  # least overlap of boxes of one object
_MARGIN = 0.01  # of a tile: an object that is so near to its border is cut


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
        The objects, in pixels of the image, each once. Of several whole ones of a class in different tiles
        that overlap by more than half, the best is kept. Objects that are cut by the borders of their tiles
        are left out if more than half of them lies in a whole one. The others, larger than the overlap of
        tiles, are put together: if two agree by more than half where both tiles see them, they become one
        with the union of their boxes and masks, and the best score.
    """
    parts = [_placed(objects, tile, score_thr) for tile, objects in zip(tiles, found, strict=True)]
    sources = np.repeat(np.arange(len(parts)), [len(part.scores) for part in parts])
    order = np.argsort(-np.concatenate([part.scores for part in parts]), kind='stable')
    boxes, scores, labels = (np.concatenate(values)[order] for values in list(zip(*parts, strict=True))[:3])
    masks = None
    if parts[0].masks is not None:
        masks = [mask for part in parts for mask in part.masks]
        masks = [masks[index] for index in order]
    edges = np.array([[columns.start, rows.start, columns.stop, rows.stop] for rows, columns in tiles])
    groups = _groups(boxes, labels, sources[order], edges, size)
    groups.sort(key=lambda group: group[0])  # the best first
    best = [group[0] for group in groups]
    boxes = np.array([_hull(boxes[group]) for group in groups], np.float32).reshape(-1, 4)
    if masks is not None:
        masks = MaskParts([_union([masks[index] for index in group]) for group in groups], size)
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
    boxes: np.ndarray, labels: np.ndarray, sources: np.ndarray, tiles: np.ndarray, size: tuple[int, int]
) -> list[list[int]]:
    """Find which objects are the same one.

    Args:
        boxes: Those of the objects of all tiles, the best first.
        labels: Their classes.
        sources: The tile of each.
        tiles: Left, top, right and bottom of each tile.
        size: Height and width of the image.

    Returns:
        The indices of the parts of each object: one, if it is whole in a tile.
    """
    areas = _areas(boxes)
    cut = _cut(boxes, tiles[sources], size)
    free = np.ones(len(boxes), bool)
    groups = []
    for first in [*np.flatnonzero(~cut), *np.flatnonzero(cut)]:
        if not free[first]:
            continue
        free[first] = False
        group = [first]
        for member in group:  # which grows: a large object may lie in many tiles
            rivals = np.flatnonzero(free & (labels == labels[member]) & (sources != sources[member]))
            if cut[member]:  # compare what both tiles see
                both = _common(tiles[sources[member]], tiles[sources[rivals]])
                same = _overlap(_common(boxes[member], both), _common(boxes[rivals], both)) > _SAME
                group += list(rivals[same])
            else:
                inside = _areas(_common(boxes[member], boxes[rivals])) > _SAME * areas[rivals]
                same = np.where(cut[rivals], inside, _overlap(boxes[member], boxes[rivals]) > _SAME)
            free[rivals[same]] = False
        groups.append(group)
    return groups


def _cut(boxes: np.ndarray, tiles: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Whether objects reach borders of their tiles that are not the image's."""
    margin = _MARGIN * (tiles[:, 2:] - tiles[:, :2])
    low = (boxes[:, :2] < tiles[:, :2] + margin) & (tiles[:, :2] > 0)
    high = (boxes[:, 2:] > tiles[:, 2:] - margin) & (tiles[:, 2:] < size[::-1])
    return (low | high).any(1)


def _overlap(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Intersection over union; 0 for boxes without area."""
    common = _areas(_common(boxes, others))
    return common / (_areas(boxes) + _areas(others) - common).clip(np.finfo(np.float32).tiny)


def _common(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """The intersections of boxes."""
    low = np.maximum(boxes[..., :2], others[..., :2])
    return np.concatenate([low, np.minimum(boxes[..., 2:], others[..., 2:])], -1)


def _areas(boxes: np.ndarray) -> np.ndarray:
    return np.prod((boxes[..., 2:] - boxes[..., :2]).clip(0), -1)


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
