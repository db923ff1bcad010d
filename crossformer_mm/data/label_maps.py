"""Label maps as PNG files, in the numbering that a data set's own maps have."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from torch import Tensor

from ..utils.files import write_atomically


def label_array(labels: Tensor) -> np.ndarray:
    """The labels that a sample of MMSegmentation's holds.

    Args:
        labels: ``(1, H, W)``, or ``(H, W)`` as its test-time augmentation leaves them.

    Returns:
        ``(H, W)``.
    """
    return labels.reshape(labels.shape[-2:]).long().cpu().numpy()


def write_label_map(path: Path, labels: np.ndarray) -> None:
    """Write a label map as a grey PNG, whole or not at all.

    Args:
        path: The file, in a folder that exists; replaced if it is there.
        labels: ``(H, W)``, of any integers from 0 to 65535; 8 bits a pixel where those do, else 16.

    Raises:
        UserError: The disk refuses.
    """
    labels = labels.astype(np.uint8 if labels.max() < 256 else np.uint16)
    encoded = cv2.imencode('.png', labels)[1].tobytes()

    def save(part: Path) -> None:
        part.write_bytes(encoded)

    write_atomically(path, save, overwrite=True)


def values_of_classes(meta: Mapping[str, Any]) -> np.ndarray:
    """What each class is called in the data's own label maps.

    Args:
        meta: An MMSegmentation data set's: ``classes``; ``reduce_zero_label``, where the maps' 0 is no
            class and class 0 is their 1; ``label_map``, where the classes are a selection of the maps'.

    Returns:
        ``(classes,)``: to be indexed with a prediction.
    """
    values = np.arange(len(meta['classes']))
    for value, label in (meta.get('label_map') or {}).items():
        if label < len(values):  # those left out are mapped to the label to ignore
            values[label] = value
    return values + bool(meta.get('reduce_zero_label'))


def png_name(image: str | Path, folder: str | Path) -> Path:
    """The name of a PNG file about an image.

    Args:
        image: The image's path.
        folder: What the name is relative to.

    Returns:
        The image's path in the folder, with the ending ``.png``; its name alone where it lies elsewhere.
    """
    image = Path(image).absolute()
    folder = Path(folder).absolute()
    inside = image.relative_to(folder) if image.is_relative_to(folder) else Path(image.name)
    return inside.with_suffix('.png')
