"""Label map files: pair them with images, read them as training does, and write predictions."""

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

from ..utils.errors import UserError
from ..utils.files import files_in
from ..utils.outputs import unique_names, write_output
from .images import PILLOW_ERRORS
from .problems import Problem

SUFFIXES = ('.png', '.jpg', '.jpeg', '.bmp', '.tif', '.tiff', '.webp')
Pair = tuple[Path, Path]
"""An image and its label map."""


def find_pairs(images: str | Path, maps: str | Path) -> list[Pair]:
    """List images with the label maps of the same names, of any file types.

    Args:
        images: The folder of images, including its subfolders.
        maps: The folder of label maps, with the same subfolders.

    Returns:
        The pairs, sorted. For a missing map, the path of a PNG file.
    """
    known = {path.with_suffix(''): path for path in reversed(_files_in(maps))}
    pairs = []
    for image in _files_in(images):
        name = Path(maps, image.relative_to(images)).with_suffix('')
        pairs.append((image, known.get(name, Path(f'{name}.png'))))
    return pairs


def unpaired(
    pairs: Sequence[Pair], maps: str | Path, suffixes: str | tuple[str, ...] = SUFFIXES
) -> list[Problem]:
    """Find images and label maps without a counterpart, and images that share one.

    Args:
        pairs: Images and the maps that they need.
        maps: The folder of label maps.
        suffixes: The suffixes of label maps; other files in the folder are ignored.

    Returns:
        The problems.
    """
    existing = set(_files_in(maps, suffixes))
    images: dict[Path, Path] = {}
    problems = []
    for image, label_map in pairs:
        if label_map not in existing:
            what = f'{image} has no label map: there is no {label_map}'
            problems.append(Problem('images without a label map', what))
        elif label_map in images:
            what = f'{image} and {images[label_map]} have the same label map, {label_map}'
            problems.append(Problem('images that share a label map', what))
        images.setdefault(label_map, image)
    for path in sorted(existing - set(images)):
        problems.append(Problem('label maps without an image', f'{path} has no image of the same name'))
    return problems


def read_label_map(path: Path) -> np.ndarray:
    """Read a label map as training does.

    Args:
        path: A grey image of any depth, or one with a palette, whose indices, not colours, are read.

    Returns:
        Integers, ``(H, W)``.

    Raises:
        UserError: It cannot be read, or is a colour image.
    """
    try:
        with Image.open(path) as image:
            values, mode = np.asarray(image), image.mode
    except PILLOW_ERRORS as error:
        raise UserError(f'{path} cannot be read as a label map; replace the file') from error
    if values.ndim != 2 or values.dtype.kind not in 'uib':
        raise UserError(
            f'{path} is not a label map but a colour image ({mode});'
            ' write a grey PNG whose pixels are the numbers of the classes'
        )
    return values.astype(np.uint8) if values.dtype == bool else values


def write_label_map(path: Path, labels: np.ndarray) -> None:
    """Write a label map as a grey PNG, atomically.

    Args:
        path: The file; it is replaced if it exists.
        labels: Integers from 0 to 65535, ``(H, W)``; written with 8 bits per pixel if possible, else 16.

    Raises:
        UserError: It cannot be written.
    """
    labels = labels.astype(np.uint8 if labels.max() < 256 else np.uint16)
    encoded = cv2.imencode('.png', labels)[1].tobytes()
    write_output(path, lambda part: part.write_bytes(encoded))


def values_of_classes(meta: Mapping[str, Any]) -> np.ndarray:
    """Find the value of each class in the dataset's own label maps.

    Args:
        meta: The ``metainfo`` of an MMSegmentation dataset: ``classes``; ``reduce_zero_label``, if 0 is
            unlabelled in the files and class 0 has the value 1; ``label_map``, if the classes are a selection
            of those in the files.

    Returns:
        The values, ``(classes,)``, to be indexed with a prediction.
    """
    values = np.arange(len(meta['classes']))
    for value, label in (meta.get('label_map') or {}).items():
        if label < len(values):  # classes that are not selected are mapped to the ignored label
            values[label] = value
    return values + bool(meta.get('reduce_zero_label'))


def png_names(images: Iterable[str], folder: str | Path) -> dict[str, str]:
    """Choose a name for the PNG file of each image.

    Args:
        images: The images' paths.
        folder: The folder that the names are relative to.

    Returns:
        For each image, its path relative to the folder, or only its name if it is not in the folder, ending
        in ``.png``. Names that would be equal are numbered.
    """
    images, folder = list(dict.fromkeys(images)), os.path.abspath(folder)  # noqa: PTH100 # removes ..
    paths = [Path(os.path.abspath(image)).with_suffix('') for image in images]  # noqa: PTH100
    inside = [path.relative_to(folder) if path.is_relative_to(folder) else path.name for path in paths]
    names = unique_names(map(str, inside))
    return {image: f'{name}.png' for image, name in zip(images, names, strict=True)}


def _files_in(folder: str | Path, suffixes: str | tuple[str, ...] = SUFFIXES) -> list[Path]:
    return [path for path in files_in(folder) if path.name.lower().endswith(suffixes)]
