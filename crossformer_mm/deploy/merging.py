"""Merge the objects that a detector finds in overlapping tiles of an image."""

from collections.abc import Iterable, Sequence

import numpy as np

from .masks import MaskPart, MaskParts, part_of
from .predictions import Objects, Tile

_SAME = 0.5  # of what two tiles see of an object, this share must agree


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
        The objects, in pixels of the image. Two of one class from different tiles are the same if, of their
        parts where the tiles overlap, more than half of the smaller one lies in the other. They become one
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
    groups = _groups(Objects(boxes, scores, labels, masks), sources[order], edges)
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


def _groups(found: Objects, sources: np.ndarray, tiles: np.ndarray) -> list[list[int]]:
    """Find which objects are the same one.

    Args:
        found: The objects of all tiles, the best first.
        sources: The tile of each.
        tiles: Left, top, right and bottom of each tile.

    Returns:
        The indices of each group, the best first.
    """
    free = np.ones(len(found.scores), bool)
    groups = []
    for first in range(len(free)):
        if not free[first]:
            continue
        free[first] = False
        group = [first]
        for member in group:  # which grows: an object may lie in many tiles
            candidates = free & (found.labels == found.labels[member]) & (sources != sources[member])
            others = np.flatnonzero(candidates)
            both = _common(tiles[sources[member]], tiles[sources[others]])  # what both tiles see
            near = _areas(_common(_common(found.boxes[member], found.boxes[others]), both)) > 0
            same = [
                index
                for index, zone in zip(others[near], both[near], strict=True)
                if _is_same(found, member, index, zone)
            ]
            free[same] = False
            group += same
        groups.append(group)
    return groups


def _is_same(found: Objects, one: int, other: int, zone: np.ndarray) -> bool:
    """Whether, of the parts of two objects in a zone, more than a share of the smaller lies in the other."""
    if found.masks is None:
        parts = _common(found.boxes[[one, other]], zone)
        return _areas(_common(*parts)) > _SAME * _areas(parts).min()
    left, top, right, low = zone
    parts = [found.masks[index].within(top, left, low, right) for index in (one, other)]
    return (parts[0] & parts[1]).sum() > _SAME * min(part.sum() for part in parts)


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
