"""Read images as training does, check that they decode, and find images that two datasets share."""

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
        path: Any file that OpenCV reads; the format is recognised by content.

    Returns:
        BGR, ``(H, W, 3)``, uint8.

    Raises:
        NoImageError: The file does not exist, or is not an image.
    """
    if not Path(path).exists():
        raise NoImageError('no such file')
    try:  # imread crashes on names that are not UTF-8; with mmap, only the header of other files is read
        image = cv2.imdecode(np.memmap(path, np.uint8, 'r'), cv2.IMREAD_COLOR)
    except (OSError, ValueError, cv2.error) as error:  # no access, empty, too many pixels
        raise NoImageError('cannot be read as an image') from error
    if image is None:
        raise NoImageError('cannot be read as an image')
    return image


def image_size(path: Path, decode: bool = False) -> tuple[int, int]:
    """Find the size of an image as it is loaded, that is, after rotation.

    Args:
        path: The image.
        decode: Decode it completely instead of trusting its header. Pillow raises an error for truncated
            files, while OpenCV, which training uses, leaves the missing part grey.

    Returns:
        Height and width in pixels.

    Raises:
        NoImageError: The file does not exist, or neither Pillow nor OpenCV can read it.
        Exception: With ``decode``, whatever Pillow raises for damaged files.
    """
    try:
        with Image.open(path) as image:
            width, height = image.size
            is_jpeg = image.format in ('JPEG', 'MPO')
            # for other formats, Pillow would have to decode the file to find its EXIF data
            turned = is_jpeg and image.getexif().get(ExifTags.Base.Orientation) in _TURNED
            if decode:
                if is_jpeg:
                    # reads the complete file, with little computation
                    image.draft(None, (width // 8, height // 8))
                image.load()
            return (width, height) if turned else (height, width)
    except Image.DecompressionBombError:
        pass  # a very large image, such as an aerial one, is not an attack
    except PILLOW_ERRORS:
        if decode:
            raise
    return read_image(path).shape[:2]


def image_fault(path: Path, size: tuple[int, int]) -> str | None:
    """Check that an image decodes completely and has the annotated size.

    Args:
        path: The file.
        size: The annotated height and width.

    Returns:
        The fault; None for a valid image.
    """
    try:
        found = image_size(path, decode=True)
    except Exception as error:  # decoders can raise anything for damaged files
        return f'{path} cannot be decoded: {str(error).partition(chr(10))[0]:.80}'
    if found != size:
        return f'{path} has {found[1]}×{found[0]} pixels, its annotations say {size[1]}×{size[0]}'
    return None


def image_faults(paths: Sequence[Path], sizes: Sequence[tuple[int, int]]) -> Iterator[str | None]:
    """Decode images on all processors, with a progress bar.

    Args:
        paths: The files.
        sizes: The annotated height and width of each.

    Yields:
        The result of :func:`image_fault` for each image.
    """
    return map_in_threads(image_fault, paths, sizes, description='decode images')


def shared_images(first: Sequence[Path], second: Sequence[Path]) -> Iterator[tuple[Path, Path]]:
    """Find files of equal content in two sets. Only files of equal length are read.

    Args:
        first: Existing files.
        second: Other existing files.

    Yields:
        Pairs of one file from each set.
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
