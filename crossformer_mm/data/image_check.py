"""Decode the images of a data set, several at a time, and find those that two sets share."""

import os
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from hashlib import blake2b
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from ..utils.progress import progress_bar

_WORTH_A_BAR = 1000  # images; fewer are decoded within seconds
_ORIENTATION, _TURNED = 0x0112, (5, 6, 7, 8)  # EXIF: width and height swapped


def image_faults(paths: Sequence[Path], sizes: Sequence[tuple[int, int]]) -> Iterator[str | None]:
    """Decode images, on all processors.

    Args:
        paths: The files.
        sizes: What the annotations say of each, height and width.

    Yields:
        For each, what is wrong with it, or None. A bar on stderr shows how far it is, if there are many.
    """
    # Decoding frees Python's lock, and forked processes hang where OpenCV has had threads before.
    pool = ThreadPoolExecutor(len(os.sched_getaffinity(0)))
    try:
        found = pool.map(image_fault, paths, sizes)
        with progress_bar(disable=len(paths) < _WORTH_A_BAR) as progress:
            yield from progress.track(found, total=len(paths), description='decode images')
    finally:  # after Ctrl-C, before all are decoded
        pool.shutdown(wait=False, cancel_futures=True)


def image_fault(path: Path, size: tuple[int, int]) -> str | None:
    """Decode an image to the end: OpenCV, which training uses, leaves what a truncated file lacks grey.

    Args:
        path: The file.
        size: What the annotations say, height and width.

    Returns:
        What is wrong with it; None if nothing is.
    """
    try:
        found = _decoded_size(path)
    except Exception as error:  # decoders raise anything on broken files
        return f'{path} cannot be decoded: {str(error).partition(chr(10))[0]:.80}'
    if found != size:
        return f'{path} has {found[1]}×{found[0]} pixels, its annotations say {size[1]}×{size[0]}'
    return None


def _decoded_size(path: Path) -> tuple[int, int]:
    """Height and width as OpenCV would load it, which turns photographs as their EXIF says."""
    try:
        with Image.open(path) as image:
            width, height = image.size
            if image.format in ('JPEG', 'MPO'):
                turned = image.getexif().get(_ORIENTATION) in _TURNED
                image.draft(None, (width // 8, height // 8))  # all is read, little of it computed
                image.load()
                return (width, height) if turned else (height, width)
            image.load()
    except Image.DecompressionBombError:
        pass  # aerial images are no attack
    pixels = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_COLOR)
    if pixels is None:
        raise ValueError('OpenCV, which training loads it with, does not read it')
    return pixels.shape[:2]


def shared_images(first: Sequence[Path], second: Sequence[Path]) -> Iterator[tuple[Path, Path]]:
    """Find files of the same content, of which those of the same length alone are read.

    Args:
        first: Files that exist.
        second: More of them.

    Yields:
        A file of each.
    """
    lengths = {path.stat().st_size for path in second}
    known = defaultdict(list)
    for path in first:
        if (length := path.stat().st_size) in lengths:
            known[length].append(path)
    digests: dict[bytes, Path] = {}
    for path in (path for paths in known.values() for path in paths):
        digests.setdefault(_digest(path), path)
    for path in second:
        if path.stat().st_size in known and (twin := digests.get(_digest(path))):
            yield twin, path


def _digest(path: Path) -> bytes:
    return blake2b(path.read_bytes()).digest()
