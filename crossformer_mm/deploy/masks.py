"""Paste the masks of objects, which are given within their boxes, into images, as MMDetection does."""

from collections.abc import Sequence

import numpy as np

THRESHOLD = 0.5  # least probability of a pixel in a mask


class PastedMasks(Sequence):
    """Masks that are pasted when they are asked for, since all those of a photograph could need gigabytes.

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
