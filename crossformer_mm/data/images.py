"""Read images as training does, check that they decode, and find those that two datasets share."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from hashlib import blake2b
from pathlib import Path

import cv2
import numpy as np
from PIL import ExifTags, Image

from ..utils.errors import UserError
from ..utils.progress import map_in_threads

PILLOW_ERRORS = (OSError, ValueError, SyntaxError, Image.DecompressionBombError)
_TURNED = (5, 6, 7, 8)  # EXIF orientations that swap width and height


class NoImageError(UserError):
    """A file cannot be read as an image; the message is the reason, without the file's name."""


def read_image(path: str | Path) -> np.ndarray:
    """Read an image as training does: rotated as its EXIF data says, 8 bits, without transparency.

    Args:
        path: Any file that OpenCV reads; its content counts, not its name.

    Returns:
        BGR, ``(H, W, 3)``, uint8.

    Raises:
        NoImageError: There is no such file, or no image in it.
    """
    if not Path(path).exists():
        raise NoImageError('no such file')
    try:  # imread crashes on names that are not UTF-8; mapping reads no more of other files than a header
        image = cv2.imdecode(np.memmap(path, np.uint8, 'r'), cv2.IMREAD_COLOR)
    except (OSError, ValueError, cv2.error) as error:  # no access, empty, too many pixels
        raise NoImageError('cannot be read as an image') from error
    if image is None:
        raise NoImageError('cannot be read as an image')
    return image


def image_size(path: Path, decode: bool = False) -> tuple[int, int]:
    """Find the size that an image has when it is loaded.

    Args:
        path: The image.
        decode: Decode it to the end instead of trusting its header. Pillow raises an error on truncated
            files, where OpenCV, which training uses, leaves the missing part grey.

    Returns:
        Height and width in pixels.

    Raises:
        NoImageError: There is no such file, or neither Pillow nor OpenCV reads it.
        Exception: With ``decode``, whatever Pillow raises on broken files.
    """
    try:
        with Image.open(path) as image:
            width, height = image.size
            is_jpeg = image.format in ('JPEG', 'MPO')
            # Pillow would have to decode files of other formats to find their EXIF data
            turned = is_jpeg and image.getexif().get(ExifTags.Base.Orientation) in _TURNED
            if decode:
                if is_jpeg:
                    image.draft(None, (width // 8, height // 8))  # reads all of it, computes little
                image.load()
            return (width, height) if turned else (height, width)
    except Image.DecompressionBombError:
        pass  # aerial images are no attack
    except PILLOW_ERRORS:
        if decode:
            raise
    return read_image(path).shape[:2]


def image_fault(path: Path, size: tuple[int, int]) -> str | None:
    """Decode an image to the end.

    Args:
        path: The file.
        size: The height and width that the annotations give.

    Returns:
        What is wrong with it; None if nothing is.
    """
    try:
        found = image_size(path, decode=True)
    except Exception as error:  # decoders raise anything on broken files
        return f'{path} cannot be decoded: {str(error).partition(chr(10))[0]:.80}'
    if found != size:
        return f'{path} has {found[1]}×{found[0]} pixels, its annotations say {size[1]}×{size[0]}'
    return None


def image_faults(paths: Sequence[Path], sizes: Sequence[tuple[int, int]]) -> Iterator[str | None]:
    """Decode images on all processors, with a progress bar.

    Args:
        paths: The files.
        sizes: The height and width of each that the annotations give.

    Yields:
        What :func:`image_fault` returns, for each.
    """
    return map_in_threads(image_fault, paths, sizes, description='decode images')


def shared_images(first: Sequence[Path], second: Sequence[Path]) -> Iterator[tuple[Path, Path]]:
    """Find files of equal content. Only files of equal length are read.

    Args:
        first: Existing files.
        second: More of them.

    Yields:
        Pairs of one file of each.
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
