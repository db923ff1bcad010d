"""Masks of objects that need little memory until each is asked for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

THRESHOLD = 0.5  # least probability of a pixel in a mask


class PastedMasks(Sequence):
    """Masks within boxes, each pasted into the image when it is asked for, as MMDetection does.

    Args:
        masks: The probabilities within each box, ``(n, h, w)``.
        boxes: Left, top, right and bottom in pixels of the image, float32, ``(n, 4)``.
        size: Height and width of the image.
    """

    def __init__(self, masks: np.ndarray, boxes: np.ndarray, size: tuple[int, int]) -> None:
        self.masks, self.boxes, self.size = masks, boxes, size

    def __len__(self) -> int:
        """The number of masks."""
        return len(self.masks)

    def __getitem__(self, index: int) -> np.ndarray:
        """Paste a mask, bilinearly interpolated; ``(H, W)``, bool."""
        left, top, right, low = self.boxes[index]
        h, w = self.masks[index].shape
        first_row, rows = _weights(top, low, h, self.size[0])
        first_column, columns = _weights(left, right, w, self.size[1])
        pasted = np.zeros(self.size, bool)
        part = pasted[first_row : first_row + len(rows), first_column : first_column + len(columns)]
        np.greater_equal(rows @ self.masks[index] @ columns.T, THRESHOLD, out=part)
        return pasted


def _weights(low: float, high: float, cells: int, length: int) -> tuple[int, np.ndarray]:
    """Find the weights of a mask's rows, or columns, in each of the image's that the box may touch.

    Args:
        low: The box's first edge.
        high: Its last edge.
        cells: Rows of the mask.
        length: Rows of the image.

    Returns:
        The first row of the image, and the weights ``(rows, cells)``. Beyond the mask are zeros.
    """
    first, last = max(int(np.floor(low)) - 1, 0), min(int(np.ceil(high)) + 1, length)
    pixels = np.arange(first, last, dtype=np.float32) + np.float32(0.5)
    with np.errstate(divide='ignore', invalid='ignore'):
        place = (pixels - low) / (high - low) * 2 - 1  # -1 and 1 are the edges of the box
    place[np.isinf(place)] = 0  # of a box without area
    cell = ((place + 1) * cells - 1) / 2
    return first, np.maximum(1 - np.abs(cell[:, None] - np.arange(cells, dtype=np.float32)), 0)


class MaskPart(NamedTuple):
    """The rectangle of an image that contains the pixels of a mask."""

    top: int
    left: int
    pixels: np.ndarray
    """``(h, w)``, bool."""

    @classmethod
    def of(cls, mask: np.ndarray, top: int = 0, left: int = 0) -> MaskPart:
        """Crop a mask ``(H, W)`` of which the first pixel is at ``top`` and ``left``."""
        rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
        if not len(rows):
            return cls(top, left, np.zeros((0, 0), bool))
        first, start = int(rows[0]), int(columns[0])
        pixels = mask[first : rows[-1] + 1, start : columns[-1] + 1].copy()
        return cls(top + first, left + start, pixels)

    def within(self, top: int, left: int, low: int, right: int) -> np.ndarray:
        """The mask in a rectangle of the image; ``(low - top, right - left)``."""
        found = np.zeros((max(low - top, 0), max(right - left, 0)), bool)
        height, width = self.pixels.shape
        first, start = max(top, self.top), max(left, self.left)
        last, end = min(low, self.top + height), min(right, self.left + width)
        if first < last and start < end:
            found[first - top : last - top, start - left : end - left] = self.pixels[
                first - self.top : last - self.top, start - self.left : end - self.left
            ]
        return found


class MaskParts(Sequence):
    """Masks of which only the rectangles with their pixels are in memory.

    Args:
        parts: The rectangle of each mask.
        size: Height and width of the image.
    """

    def __init__(self, parts: Sequence[MaskPart], size: tuple[int, int]) -> None:
        self.parts, self.size = parts, size

    def __len__(self) -> int:
        """The number of masks."""
        return len(self.parts)

    def __getitem__(self, index: int) -> np.ndarray:
        """The mask of the whole image; ``(H, W)``, bool."""
        return self.parts[index].within(0, 0, *self.size)


def part_of(masks: Sequence[np.ndarray], index: int) -> MaskPart:
    """The rectangle with the pixels of a mask, without the whole mask if only the rectangle is known."""
    return masks.parts[index] if isinstance(masks, MaskParts) else MaskPart.of(masks[index])
