"""What models predict, whatever runs them, in the pixels of the image that was given.

A detector predicts :class:`Objects`, a segmentor a label map ``(H, W)`` of integers, and a classifier the
score of each class, ``(classes,)``.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

Tile = tuple[slice, slice]  # rows and columns of an image


class Objects(NamedTuple):
    """The objects in an image, the best first."""

    boxes: np.ndarray
    """Left, top, right and bottom in pixels, ``(n, 4)``, float32."""
    scores: np.ndarray
    """``(n,)``, float32."""
    labels: np.ndarray
    """``(n,)``."""
    masks: Sequence[np.ndarray] | None
    """The mask of each, ``(H, W)``, bool, made when it is asked for; None for a model without masks."""
