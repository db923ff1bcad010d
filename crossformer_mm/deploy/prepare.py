"""Turn images into the input of an exported model, with the same pixels as the toolboxes' transforms."""

from collections.abc import Mapping
from typing import Any

import cv2
import numpy as np

_THINNEST = 100  # ratio of sides; beyond it, resizing would leave less than one pixel
_OPENCV = {'bilinear': cv2.INTER_LINEAR, 'bicubic': cv2.INTER_CUBIC}


def widen(image: np.ndarray) -> np.ndarray:
    """Repeat the last row or column of a very thin image, which would otherwise be resized to zero pixels."""
    height, width = image.shape[:2]
    least = -(-max(height, width) // _THINNEST)
    below, right = max(least - height, 0), max(least - width, 0)
    return cv2.copyMakeBorder(image, 0, below, 0, right, cv2.BORDER_REPLICATE)


def prepare(
    image: np.ndarray, size: tuple[int, int], preprocessing: Mapping[str, Any]
) -> tuple[np.ndarray, tuple[int, int]]:
    """Prepare an image.

    Args:
        image: BGR, ``(h, w, 3)``, uint8.
        size: Height and width of the model's input.
        preprocessing: What the exported file says about it.

    Returns:
        RGB, ``(*size, 3)``, uint8; and its height and width without the padding at the bottom and right.
    """
    height, width = _resized_size(image.shape[:2], size, preprocessing)
    image = _resize(image, height, width, preprocessing)
    if multiple := preprocessing.get('multiple'):
        image = _resize(image, *(-(-side // multiple) * multiple for side in image.shape[:2]), preprocessing)
    if preprocessing['resize'] == 'edge':
        image = _crop_centre(image, *size)
    valid = image.shape[:2]
    image = cv2.copyMakeBorder(image, 0, size[0] - valid[0], 0, size[1] - valid[1], cv2.BORDER_CONSTANT)
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB), valid


def _resized_size(
    given: tuple[int, int], size: tuple[int, int], preprocessing: Mapping[str, Any]
) -> tuple[int, int]:
    """The height and width to which an image is resized, rounded as the toolboxes do."""
    (h, w), (H, W) = given, size
    if preprocessing['resize'] == 'stretch':
        return size
    if preprocessing['resize'] == 'edge':
        edge, shorter = preprocessing['edge'], min(given)
        return int(edge * h / shorter), int(edge * w / shorter)
    factor = min(H / h, W / w)
    return max(int(h * factor + 0.5), 1), max(int(w * factor + 0.5), 1)


def _resize(image: np.ndarray, height: int, width: int, preprocessing: Mapping[str, Any]) -> np.ndarray:
    interpolation = preprocessing['interpolation']
    if preprocessing['library'] == 'opencv':
        return cv2.resize(image, (width, height), interpolation=_OPENCV[interpolation])
    from PIL import Image  # which the files of detectors and segmentors do not need

    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling[interpolation.upper()]))


def _crop_centre(image: np.ndarray, height: int, width: int) -> np.ndarray:
    top, left = (round((there - kept) / 2) for there, kept in zip(image.shape, (height, width), strict=False))
    return image[top : top + height, left : left + width]
