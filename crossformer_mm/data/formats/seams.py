"""Polygons of several parts as one, as YOLO writes them: joined by an edge that is passed twice."""

from collections.abc import Sequence

import cv2
import numpy as np

from .reading import Points

_TOUCHING = 0.01  # pixels


def join(parts: Sequence[Points]) -> Points:
    """Join polygons to one, by an edge between their nearest points, there and back."""
    joined = list(parts[0])
    for part in parts[1:]:
        distances = np.linalg.norm(np.array(joined)[:, None] - np.array(part)[None], axis=-1)
        i, j = divmod(int(distances.argmin()), len(part))
        joined = [*joined[: i + 1], *part[j:], *part[: j + 1], *joined[i:]]
    return joined


def split(points: Points) -> list[Points]:
    """Undo :func:`join`: the parts of a polygon, or the polygon itself if a part is a hole in another."""
    parts = _cut(points)
    holes = any(_is_inside(part, other) for part in parts for other in parts if part is not other)
    return [points] if holes else parts


def _is_inside(part: Points, other: Points) -> bool:
    """Whether a polygon is in another one, at whose outline it may end."""
    outline = np.array(other, np.float32)
    middles = [((x + u) / 2, (y + v) / 2) for (x, y), (u, v) in zip(part, [*part[1:], part[0]], strict=True)]
    return all(cv2.pointPolygonTest(outline, p, measureDist=True) >= -_TOUCHING for p in [*part, *middles])


def _cut(points: Points) -> list[Points]:
    """The loops on both sides of each edge that is passed there and back."""
    waiting, loops = [points], []
    while waiting:
        loop = waiting.pop()
        first: dict[tuple, int] = {}
        for end, edge in enumerate(zip(loop, [*loop[1:], loop[0]], strict=True)):
            start = first.get(edge[::-1])
            if start is not None:
                inner, outer = loop[start + 1 : end], loop[: start + 1] + loop[end + 2 :]
                if min(len(inner), len(outer)) >= 3:
                    waiting += [inner, outer]
                    break
            first.setdefault(edge, end)
        else:
            loops.append(loop)
    return loops


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
