"""Read images as training does, check that they decode, and find images that two datasets share."""

import os
import sys
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from hashlib import blake2b
from io import BytesIO
from pathlib import Path
from typing import BinaryIO, NamedTuple

import cv2
import numpy as np
from PIL import Image

from ..utils.errors import UserError
from ..utils.files import files_in
from ..utils.progress import map_in_threads
from .problems import Problem

Image.MAX_IMAGE_PIXELS = 2**29  # Pillow refuses more than twice as many, which is OpenCV's limit

SUFFIXES = ('.png', '.jpg', '.jpeg', '.jpe', '.jfif', '.bmp', '.tif', '.tiff', '.webp')
PILLOW_ERRORS = (OSError, ValueError, SyntaxError, Image.DecompressionBombError)
IGNORE_EXIF_HELP = 'do not turn images as their EXIF data says: labels and results are of the stored pixels'
REPLACE = 'replace the file, or remove it from the dataset'
_FORMATS = ('JPEG', 'MPO', 'PNG', 'WEBP', 'BMP', 'TIFF')  # OpenCV reads them in the size that Pillow finds
_NUMBERS = ('F', 'I')  # Pillow's modes of floats and 32-bit integers, which OpenCV may refuse
_THINNEST = 1000  # ratio of sides; beyond it, common scales leave less than a pixel
_DIM = 64  # values of 14 bits and fewer in 16-bit files stay below it

_TINY = Image.fromarray(np.arange(0, 240, 40, np.uint8).reshape(2, 3))  # differs from itself in any turn
_TINY.save(_buffer := BytesIO(), 'JPEG')
_TINY_JPEG = _buffer.getvalue()


class NoImageError(UserError):
    """A file cannot be read as an image; the message is the reason, without the file's name."""


class ImageHeader(NamedTuple):
    """What is known of an image without decoding it."""

    height: int
    width: int
    """The size in pixels of the image as it is loaded, that is, after it is turned."""
    turned: bool
    """Whether the loaded image is turned or mirrored, as its EXIF data says."""


def image_files(folder: str | Path, suffixes: str | tuple[str, ...] = SUFFIXES) -> list[Path]:
    """List the images in a folder and its subfolders, sorted, without hidden ones.

    Args:
        folder: The folder; if it does not exist, it has no images.
        suffixes: The suffixes of images, in lower case. By default, files without any suffix are images too
            if Pillow recognises their content.

    Raises:
        UserError: A folder cannot be listed.
    """
    return [
        path
        for path in files_in(folder)
        if path.name.lower().endswith(suffixes)
        or (suffixes is SUFFIXES and not path.suffix and _is_image(path))
    ]


def _is_image(path: Path) -> bool:
    try:
        with Image.open(path):
            return True
    except PILLOW_ERRORS:
        return False


def read_image(path: str | Path, ignore_exif: bool = False) -> np.ndarray:
    """Read an image as training does: 8 bits, without transparency.

    Args:
        path: Any file that OpenCV reads; the format is recognised by content.
        ignore_exif: Keep the stored pixels as they are, instead of turning them as the EXIF data says.

    Returns:
        BGR, ``(H, W, 3)``, uint8.

    Raises:
        NoImageError: The file does not exist, or is not an image.
    """
    return _decode(path, cv2.IMREAD_COLOR | ignore_exif * cv2.IMREAD_IGNORE_ORIENTATION)


def _decode(path: str | Path, flags: int) -> np.ndarray:
    _check_is_file(Path(path))
    try:  # imread crashes on names that are not UTF-8; with mmap, only the header of other files is read
        image = cv2.imdecode(np.memmap(path, np.uint8, 'r'), flags)
    except (OSError, ValueError) as error:  # no access, empty
        raise NoImageError('cannot be read as an image') from error
    except (cv2.error, MemoryError) as error:
        limit = 'OpenCV reads' if 'CV_IO_MAX' in str(error) else 'fit into memory'
        raise NoImageError(f'cannot be read as an image: it has more pixels than {limit}') from error
    if image is None:
        raise NoImageError('cannot be read as an image')
    return image


def _check_is_file(path: Path) -> None:
    try:
        if path.is_file():  # opening a pipe would wait for ever
            return
        reason = 'is neither a file nor a link to one' if path.exists() else 'no such file'
    except OSError as error:  # the name is too long, or the folder is closed
        reason = f'cannot be read: {error.strerror}'
    raise NoImageError(reason)


def image_header(path: str | Path, ignore_exif: bool = False) -> ImageHeader:
    """Find the size of an image as it is loaded, and whether it is turned, if possible from its header.

    Args:
        path: The image.
        ignore_exif: Whether the run keeps the stored pixels as they are.

    Raises:
        NoImageError: The file does not exist, or OpenCV cannot read it.
    """
    _check_is_file(Path(path))
    try:
        with Image.open(path) as image:
            if image.format in _FORMATS and image.mode not in _NUMBERS:
                width, height = image.size
                turned, sideways = (False, False) if ignore_exif else _turn(image)
                return ImageHeader(*((width, height) if sideways else (height, width)), turned)
    except PILLOW_ERRORS:
        pass  # OpenCV, which the run uses, reads some files that Pillow refuses
    image = read_image(path, ignore_exif)
    turned = not ignore_exif and not np.array_equal(image, read_image(path, ignore_exif=True))
    return ImageHeader(*image.shape[:2], turned)


def _turn(image: Image.Image) -> tuple[bool, bool]:
    """Whether OpenCV turns or mirrors an image, and whether that swaps its sides.

    OpenCV's versions differ in the formats and in the order of metadata in which they find EXIF data, so the
    installed one reads a tiny image with the same metadata.
    """
    tiny = _with_metadata_of(image)
    if tiny is None:
        return False, False
    data = np.frombuffer(tiny, np.uint8)
    stored = cv2.imdecode(data, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    loaded = cv2.imdecode(data, cv2.IMREAD_COLOR)
    return not np.array_equal(loaded, stored), np.shape(loaded) != np.shape(stored)


def _with_metadata_of(image: Image.Image) -> bytes | None:
    """A tiny image file with the EXIF data of another one; None if there is none."""
    if image.format in ('JPEG', 'MPO'):
        blocks = [data for name, data in image.applist if name == 'APP1']  # EXIF or XMP
        segments = (b'\xff\xe1' + (len(data) + 2).to_bytes(2, 'big') + data for data in blocks)
        return _TINY_JPEG[:2] + b''.join(segments) + _TINY_JPEG[2:] if blocks else None
    exif = stored_exif(image)
    if not exif or image.format not in ('PNG', 'WEBP'):  # Pillow and OpenCV both turn TIFF files, always
        return None
    # Pillow keeps the settings of a call in the image, which threads share
    _TINY.copy().save(buffer := BytesIO(), image.format, exif=exif, lossless=True)
    return buffer.getvalue()


def stored_exif(image: Image.Image) -> bytes | None:
    """The EXIF data of an opened image that is not decoded yet; in a PNG file, it may follow the pixels."""
    exif = image.info.get('exif')
    return _exif_chunk(image.fp) if exif is None and image.format == 'PNG' else exif


def _exif_chunk(file: BinaryIO) -> bytes | None:
    """The first ``eXIf`` chunk of a PNG file."""
    file.seek(8)
    while len(start := file.read(8)) == 8:
        length = int.from_bytes(start[:4], 'big')
        if start[4:] == b'eXIf':
            return file.read(length)
        file.seek(length + 4, os.SEEK_CUR)
    return None


def image_problems(path: Path, size: tuple[int, int] | None, ignore_exif: bool = False) -> list[Problem]:
    """Decode an image and compare it with its annotations.

    Args:
        path: The file.
        size: The annotated height and width, if it has any.
        ignore_exif: Whether the run keeps the stored pixels as they are.

    Returns:
        The problems; none for a valid image.
    """
    try:
        header = image_header(path, ignore_exif)
        flags = cv2.IMREAD_IGNORE_ORIENTATION if ignore_exif else 0
        # JPEG decodes faster to an eighth of the size; the complete file is read all the same
        reduced = cv2.IMREAD_REDUCED_COLOR_8 if min(header[:2]) >= 8 else cv2.IMREAD_COLOR
        brightest = int(_decode(path, flags | reduced).max())
        is_deep = brightest < _DIM and _decode(path, cv2.IMREAD_ANYDEPTH).dtype != np.uint8
        if is_deep:
            brightest = int(read_image(path).max())
    except NoImageError as error:
        return [Problem('images that cannot be read', f'{path} {error}', remedy=REPLACE)]
    problems = []
    if size and header[:2] != size:
        what = f'{path} has {header.width}×{header.height} pixels, its annotations say {size[1]}×{size[0]}'
        problems.append(Problem('images of another size', what + turning_advice(header, size)))
    if max(header[:2]) > _THINNEST * min(header[:2]):
        what = f'{path} has {header.width}×{header.height} pixels, of which resizing may leave none'
        problems.append(Problem('images that are too thin', what, False, REPLACE))
    if is_deep and brightest < _DIM:
        what = f'{path} has more than 8 bits per channel, and is read with values up to {brightest} of 255'
        remedy = 'OpenCV keeps the upper 8 of 16 bits: write 8-bit images that use the full range'
        problems.append(Problem('images that are nearly black when read', what, False, remedy))
    return problems


def turning_advice(header: ImageHeader, size: tuple[int, int]) -> str:
    """The end of a message on an image of another height and width than ``size``, if EXIF is the cause."""
    if header.turned and size == (header.width, header.height):
        return '; EXIF turns it: if the annotations are of the stored pixels, give --ignore-exif'
    return ''


def problems_of_images(
    paths: Sequence[Path], sizes: Sequence[tuple[int, int] | None], ignore_exif: bool = False
) -> Iterator[list[Problem]]:
    """Decode images on all processors, with a progress bar.

    Args:
        paths: The files.
        sizes: The annotated height and width of each, if it has any.
        ignore_exif: Whether the run keeps the stored pixels as they are.

    Yields:
        The result of :func:`image_problems` for each image.
    """
    ignored = [ignore_exif] * len(paths)
    with quiet_decoders():
        yield from map_in_threads(image_problems, paths, sizes, ignored, description='decode images')


def turned_images(paths: Sequence[Path]) -> list[Path]:
    """The images that are turned or mirrored when they are loaded, found from their headers."""
    with quiet_decoders():
        turned = list(map_in_threads(_is_turned, paths, description='read EXIF data'))
    return [path for path, is_turned in zip(paths, turned, strict=True) if is_turned]


def _is_turned(path: Path) -> bool:
    try:
        return image_header(path).turned
    except NoImageError:
        return False


@contextmanager
def quiet_decoders() -> Iterator[None]:
    """Silence what libpng, libtiff, OpenCV and Pillow say about files, since they do not name the file.

    C libraries write to the file descriptor of stderr. ``sys.stderr`` keeps working, for progress bars.
    """
    if sys.__stderr__ is None:  # closed by who started this process
        yield
        return
    visible, hidden, python_stderr = os.dup(2), os.open(os.devnull, os.O_WRONLY), sys.stderr
    with os.fdopen(visible, 'w', buffering=1, errors='backslashreplace') as stderr:
        if python_stderr is sys.__stderr__:
            sys.stderr = stderr
        os.dup2(hidden, 2)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter('ignore')
                yield
        finally:
            sys.stderr = python_stderr
            os.dup2(visible, 2)
            os.close(hidden)


def spread(items: Sequence, most: int | None) -> Sequence:
    """At most ``most`` items, evenly spread; all for None."""
    return items if most is None else items[:: -(-len(items) // most) or 1]


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


def repeated_images(paths: Sequence[Path]) -> Iterator[tuple[Path, Path]]:
    """Find files of equal content in one set. Only files of equal length are read.

    Args:
        paths: Existing files.

    Yields:
        The first such file, and each other one.
    """
    counts = Counter(path.stat().st_size for path in paths)
    first: dict[bytes, Path] = {}
    for path in paths:
        if counts[path.stat().st_size] > 1 and (original := first.setdefault(_digest(path), path)) != path:
            yield original, path


def _digest(path: Path) -> bytes:
    return blake2b(path.read_bytes()).digest()
