"""Find the images that a user means, read them, and name what is written for each."""

import glob
from collections.abc import Iterable, Sequence
from pathlib import Path

import cv2
import numpy as np

from ..utils.errors import UserError

THINNEST = 100  # long side over short side; beyond, resizing would leave less than a pixel


class NoImageError(UserError):
    """A file without an image in it."""


def find_files(words: Sequence[str]) -> tuple[list[Path], dict[Path, str]]:
    """The files that the words of a command line mean.

    Args:
        words: Files, folders (the files in them, hidden ones and subfolders left out) and glob patterns
            (``**`` for any depth). A word that is a file is taken as it is, brackets and stars included.

    Returns:
        The files in the order given, each once; and the words that gave none, with the reason.
    """
    files: dict[Path, Path] = {}
    empty = {}
    for word in words:
        found = _files_of(word)
        if not found:
            empty[Path(word)] = 'the folder holds no files' if Path(word).is_dir() else 'no such file'
        for path in found:
            files.setdefault(path.resolve(), path)
    return list(files.values()), empty


def _files_of(word: str) -> list[Path]:
    path = Path(word)
    if path.exists():
        return _in_folder(path) if path.is_dir() else [path]
    matches = map(Path, sorted(glob.glob(word, recursive=True)))  # noqa: PTH207, pathlib refuses absolute ones
    return [file for match in matches for file in (_in_folder(match) if match.is_dir() else [match])]


def _in_folder(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.is_file() and not p.name.startswith('.'))


def read_image(path: Path) -> np.ndarray:
    """Read an image as training does: turned as its EXIF says, 8 bits, without transparency.

    Args:
        path: Any file that OpenCV reads; the content counts, not the name.

    Returns:
        BGR, ``(H, W, 3)``, uint8.

    Raises:
        NoImageError: There is no image in it.
    """
    if not path.exists():
        raise NoImageError('no such file')
    try:  # imread crashes on names that are not UTF-8; a mapped file is not read beyond its header in vain
        image = cv2.imdecode(np.memmap(path, np.uint8, 'r'), cv2.IMREAD_COLOR)
    except (OSError, ValueError, cv2.error) as error:  # no access, empty, too many pixels
        raise NoImageError('cannot be read as an image') from error
    if image is None:
        raise NoImageError('cannot be read as an image')
    return image


def widen(image: np.ndarray) -> np.ndarray:
    """Repeat the last row or column of a very thin image, which resizing would leave without a pixel.

    Args:
        image: ``(H, W, 3)``.

    Returns:
        The image, at the top left of a less thin one if need be.
    """
    height, width = image.shape[:2]
    least = -(-max(height, width) // THINNEST)
    below, right = max(least - height, 0), max(least - width, 0)
    return cv2.copyMakeBorder(image, 0, below, 0, right, cv2.BORDER_REPLICATE)


def name_outputs(files: Iterable[Path], folder: Path) -> list[str]:
    """A name for what is written about each file, none twice, and none of an input.

    Args:
        files: The images.
        folder: Where PNG files of the names will be written.

    Returns:
        The stems of the files; those after the first of a kind get a number, ``a``, ``a-2``, ``a-3``.
    """
    files = list(files)
    inputs = {path.resolve() for path in files}
    names: dict[str, str] = {}  # by how a file system that ignores case sees them
    for path in files:
        name, count = path.stem, 1
        while name.casefold() in names or (folder / f'{name}.png').resolve() in inputs:
            count += 1
            name = f'{path.stem}-{count}'
        names[name.casefold()] = name
    return list(names.values())
