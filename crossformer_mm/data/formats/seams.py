"""Polygons of several parts as one, as YOLO writes them: joined by an edge that is passed twice."""

from collections.abc import Sequence
from itertools import pairwise, permutations

import cv2
import numpy as np

from .reading import Points, box_around

_TOUCHING = 0.01  # pixels
_MOST_PAIRS = 1 << 20  # of points whose distances are compared


def join(parts: Sequence[Points]) -> Points:
    """Join polygons to one, by an edge between their nearest points, there and back."""
    joined = list(parts[0])
    for part in parts[1:]:
        step = 1 + len(joined) * len(part) // _MOST_PAIRS  # for noise, any near points
        distances = np.linalg.norm(np.array(joined[::step])[:, None] - np.array(part)[None], axis=-1)
        i, j = divmod(int(distances.argmin()), len(part))
        joined = [*joined[: i * step + 1], *part[j:], *part[: j + 1], *joined[i * step :]]
    return joined


def split(points: Points) -> list[Points]:
    """Undo :func:`join`: the parts of a polygon, or the polygon itself if a part is a hole in another."""
    parts = _cut(points)
    outlines = [(np.array(part, np.float32), *box_around(part)) for part in parts]
    holes = len(parts) > 1 and any(_is_inside(one, other) for one, other in permutations(outlines, 2))
    return [points] if holes else parts


def _is_inside(one: tuple, other: tuple) -> bool:
    """Whether a polygon is in another one, at whose outline it may end."""
    part, left, top, width, height = one
    outline, x, y, w, h = other
    over = max(x - left, y - top, left + width - x - w, top + height - y - h)
    if over > _TOUCHING:
        return False
    tested = np.concatenate([part, (part + np.roll(part, -1, axis=0)) / 2])
    return all(cv2.pointPolygonTest(outline, p, measureDist=True) >= -_TOUCHING for p in tested.tolist())


def _cut(points: Points) -> list[Points]:
    """The loops on both sides of each edge that is passed there and back."""
    loops, path, starts = [], points[:1], {}
    for point in [*points[1:], points[0]]:
        start = starts.get((point, path[-1]))
        if start is not None and len(path) - start > 4:
            loops.append(path[start + 1 : -1])
            for edge in pairwise(path[start:]):
                starts.pop(edge, None)
            del path[start + 1 :]
        else:
            starts[path[-1], point] = len(path) - 1
            path.append(point)
    loops.append(path[:-1] if len(path) > 1 else path)
    return [loop for loop in loops if len(loop) > 2] or [points]


def outlines(mask: np.ndarray) -> list[Points]:
    """The outlines of a mask along the edges of its pixels, each hole joined to the part around it.

    Args:
        mask: Not 0 in the object, ``(H, W)``, uint8.

    Returns:
        A polygon for each part; they enclose the pixels of the mask exactly.
    """
    twice = mask.repeat(2, axis=0).repeat(2, axis=1)
    found, tree = cv2.findContours(twice, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    edges = [_corners((contour[:, 0] + 1) // 2) for contour in found]
    parts = []
    for i, edge in enumerate(edges):
        if tree[0, i, 3] < 0:
            parts.append(join([edge, *(edges[k] for k in range(len(edges)) if tree[0, k, 3] == i)]))
    return parts


def _corners(contour: np.ndarray) -> Points:
    """The points of a closed line at which it turns."""
    contour = contour[np.any(contour != np.roll(contour, 1, axis=0), axis=1)]
    before, after = contour - np.roll(contour, 1, axis=0), np.roll(contour, -1, axis=0) - contour
    turns = np.any(np.sign(before) != np.sign(after), axis=1)
    return [(float(x), float(y)) for x, y in contour[turns]]
