"""Check the ``segmentation`` of a COCO annotation without rasterising it.

pycocotools does not check its input: it reads a polygon of two points as a box, ignores the last of an odd
number of coordinates, and overruns its memory if run lengths do not add up to the size of the image.
"""

from typing import Any

import numpy as np

from .coco_values import numbers_fault

_LONGEST = 6  # most characters, of 5 bits each, in one run length


def mask_fault(segmentation: Any, height: int, width: int) -> str | None:
    """Describe what is wrong with a mask.

    Args:
        segmentation: A list of polygons, or a dict with run lengths (RLE), compressed or not.
        height: Height of the image in pixels.
        width: Width of the image in pixels.

    Returns:
        The fault, phrased to follow "has"; None for a valid mask.
    """
    if isinstance(segmentation, list) and segmentation:
        faults = (_polygon_fault(polygon, max(height, width)) for polygon in segmentation)
        return next((fault for fault in faults if fault), None)
    if isinstance(segmentation, dict):
        return _run_length_fault(segmentation, height, width)
    return 'no segmentation (required by the mask head)'


def is_far(low: float, high: float, side: int) -> bool:
    """Whether coordinates are so far outside the image that they must be wrong, and costly to rasterise.

    Args:
        low: The smallest coordinate.
        high: The largest coordinate.
        side: The image's longer side, in pixels.
    """
    return low < -side or high > 2 * side


def _polygon_fault(polygon: Any, side: int) -> str | None:
    if not isinstance(polygon, list):
        return f'the polygon {polygon!r:.60}; COCO writes lists of numbers, [[x, y, x, y, …], …]'
    if fault := numbers_fault(polygon):
        return f'a polygon with {fault}'
    if len(polygon) < 6:
        return f'a polygon of {len(polygon)} numbers; three points need six'
    if len(polygon) % 2:
        return f'a polygon of {len(polygon)} numbers, which is odd; each point needs two'
    if is_far(min(polygon), max(polygon), side):
        return f'a polygon from {min(polygon)} to {max(polygon)}, far outside its image'
    return None


def _run_length_fault(rle: dict[str, Any], height: int, width: int) -> str | None:
    size = rle.get('size')
    if size != [height, width] or {int} != set(map(type, size)):
        return f'run lengths for the size {size!r:.60}; its image has [{height}, {width}]'
    counts = rle.get('counts')
    if isinstance(counts, str):
        counts = _decompress(counts)
    if not isinstance(counts, list) or {int}.symmetric_difference(map(type, counts)):
        return f'invalid run lengths {rle.get("counts")!r:.60}'
    if min(counts) < 0 or sum(counts) != height * width:
        return f'run lengths that do not fill its {height}×{width} pixels'
    return None


def _decompress(text: str) -> list[int] | None:
    """Decode COCO's compressed run lengths, 5 bits in each character; None if the text is invalid.

    The first character of a number has its lowest bits; a sixth bit is set if more characters follow. From
    the fourth number on, each is stored as the difference from the number two before it.
    """
    if not text.isascii():
        return None
    codes = np.frombuffer(text.encode(), np.uint8).astype(np.int64) - 48
    last = (codes & 32) == 0  # last character of its number
    if not len(codes) or codes.min() < 0 or codes.max() > 63 or not last[-1]:
        return None
    ends = np.flatnonzero(last) + 1
    lengths = np.diff(ends, prepend=0)
    if lengths.max() > _LONGEST:
        return None
    shifts = 5 * (np.arange(len(codes)) - np.repeat(ends - lengths, lengths))
    values = np.add.reduceat((codes & 31) << shifts, ends - lengths)
    negative = (codes[last] & 16) > 0
    values -= np.where(negative, np.int64(1) << 5 * lengths, 0)
    values[1::2] = np.cumsum(values[1::2])
    values[2::2] = np.cumsum(values[2::2])
    return values.tolist()
