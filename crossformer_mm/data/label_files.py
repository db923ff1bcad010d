"""Images and their label maps in folders: which belong together, and reading them as training does."""

import os
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from ..utils.errors import UserError
from .problems import Problem

SUFFIXES = ('.png', '.jpg', '.jpeg', '.bmp', '.tif', '.tiff', '.webp')
Pair = tuple[Path, Path]
"""An image and its label map."""

_ORIENTATION, _TURNED = 0x0112, (5, 6, 7, 8)  # EXIF: width and height swapped
_UNREADABLE = (OSError, ValueError, SyntaxError, Image.DecompressionBombError)  # what Pillow raises


def find_pairs(images: str | Path, maps: str | Path) -> list[Pair]:
    """List images with the label maps of their names, whatever their file types.

    Args:
        images: The folder of images; subfolders count.
        maps: The folder of label maps, with the same subfolders.

    Returns:
        The pairs, sorted. A map that is not there is named as a PNG file.
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
    """Say which files have no partner, or not one of their own.

    Args:
        pairs: Images and the maps that they need.
        maps: The folder of label maps.
        suffixes: What the names of label maps end in; other files there are left alone.

    Returns:
        The problems; none where all is well.
    """
    there = set(_files_in(maps, suffixes))
    images: dict[Path, Path] = {}
    problems = []
    for image, label_map in pairs:
        if label_map not in there:
            what = f'{image} has no label map: there is no {label_map}'
            problems.append(Problem('images without a label map', what))
        elif label_map in images:
            what = f'{image} and {images[label_map]} have the same label map, {label_map}'
            problems.append(Problem('images that share a label map', what))
        images.setdefault(label_map, image)
    for path in sorted(there - set(images)):
        problems.append(Problem('label maps without an image', f'{path} is the label map of no image'))
    return problems


def read_label_map(path: Path) -> np.ndarray:
    """Read a label map as training does.

    Args:
        path: A grey image of any depth, or one with a palette, whose numbers count and not its colours.

    Returns:
        ``(H, W)``, of integers.

    Raises:
        UserError: It cannot be read, or is a picture in colours.
    """
    try:
        with Image.open(path) as image:
            values, mode = np.asarray(image), image.mode
    except _UNREADABLE as error:
        raise UserError(f'{path} cannot be read as a label map; replace the file') from error
    if values.ndim != 2 or values.dtype.kind not in 'uib':
        raise UserError(
            f'{path} is no label map but a picture in colours ({mode});'
            ' write a grey PNG whose pixels are the numbers of the classes'
        )
    return values.astype(np.uint8) if values.dtype == bool else values


def size_of(path: Path) -> tuple[int, int]:
    """The size that an image has when it is loaded, from its header where that tells.

    Args:
        path: The image.

    Returns:
        Height and width in pixels.

    Raises:
        UserError: It cannot be read as an image.
    """
    try:
        with Image.open(path) as image:
            width, height = image.size
            # OpenCV turns photographs as their EXIF says; Pillow would decode other files to look for it
            turned = image.format in ('JPEG', 'MPO') and image.getexif().get(_ORIENTATION) in _TURNED
    except _UNREADABLE as error:
        return _decoded_size(path, error)
    return (width, height) if turned else (height, width)


def _decoded_size(path: Path, error: Exception) -> tuple[int, int]:
    """OpenCV reads files that Pillow does not, very large ones among them."""
    try:
        image = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_COLOR)
    except (OSError, cv2.error):
        image = None
    if image is None:
        raise UserError(
            f'{path} cannot be read as an image; replace the file, or take it out of the data'
        ) from error
    return image.shape[:2]


def _files_in(folder: str | Path, suffixes: str | tuple[str, ...] = SUFFIXES) -> list[Path]:
    """Hidden files are other programs' own."""
    return sorted(
        Path(parent, name)
        for parent, _, names in os.walk(folder, followlinks=True)
        for name in names
        if name.lower().endswith(suffixes) and not name.startswith('.')
    )
