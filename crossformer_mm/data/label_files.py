"""Label map files: pair them with images, read them as training does, and write predictions."""

import os
import re
import struct
from bisect import bisect
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from unicodedata import normalize

import cv2
import numpy as np
from PIL import ExifTags, Image

from ..utils.errors import UserError
from ..utils.outputs import unique_names, write_output
from ..utils.text import shorten
from .images import PILLOW_ERRORS, SUFFIXES, ImageHeader, image_files, stored_exif
from .problems import Problem

_LOSSY = ('JPEG', 'MPO')
_STRETCHED = ('L;2', 'L;4')  # Pillow's names for grey pixels of 2 and 4 bits
_TRIED = 20  # names from which an addition to all of them is found
Pair = tuple[Path, Path]
"""An image and its label map."""


def map_suffixes(ending: str) -> str | tuple[str, ...]:
    """The suffixes of label maps, as :func:`image_files` takes them: all, or what their names end with."""
    return ending.lower() or SUFFIXES


def find_pairs(
    images: str | Path, maps: str | Path, suffixes: str | tuple[str, ...] = SUFFIXES
) -> list[Pair]:
    """List images with the label maps of the same names, of any file types.

    Names may differ in case and in the Unicode form of accents where only one file can be meant. If no name
    is the same, all maps may have the same addition, as in ``1_mask.png``.

    Args:
        images: The folder of images, including its subfolders.
        maps: The folder of label maps, with the same subfolders.
        suffixes: The suffixes of label maps; other files in their folder are ignored.

    Returns:
        The pairs, sorted. For a missing map, the path of a PNG file.
    """
    names = {path: _name(path, images) for path in image_files(images)}
    known = {_name(path, maps): path for path in reversed(image_files(maps, suffixes))}
    missing = [name for name in names.values() if name not in known]
    others = _alike(missing, known.keys() - names.values())
    if missing and not others and len(missing) == len(names):
        others = _with_addition(missing, known)
    needed = {image: others.get(name, name) for image, name in names.items()}
    return [(image, known.get(name, Path(maps, f'{name}.png'))) for image, name in needed.items()]


def listed_pairs(pairs: Sequence[Pair], images: str | Path, file: str | Path) -> list[Pair]:
    """The pairs whose images are in a list, in its order.

    Args:
        pairs: From :func:`find_pairs`.
        images: The folder of the images.
        file: A text file with the name of an image per line, relative to the folder, without suffix.

    Raises:
        UserError: The list cannot be read, or an image in it does not exist.
    """
    try:
        # as save_text writes names: any character but the end of a line may be in one
        lines = Path(file).read_bytes().decode('utf-8-sig', 'surrogateescape').split('\n')
    except OSError as error:
        raise UserError(f'{file} cannot be read as a list of images ({error})') from error
    known = {_name(image, images): (image, label_map) for image, label_map in pairs}
    chosen = {}
    for number, line in enumerate(lines, start=1):
        name = line if line in known else line.strip()
        if name and name not in known:
            raise UserError(f'{file}, line {number}: {images} has no image {name:.200}; correct the list')
        if name:
            chosen[name] = known[name]
    return list(chosen.values())


def _name(path: Path, folder: str | Path) -> str:
    """A file's path relative to a folder, without suffix."""
    return str(path.relative_to(folder).with_suffix(''))


def name_form(name: str) -> str:
    """A name that does not depend on case and Unicode form."""
    return normalize('NFC', normalize('NFC', name).casefold())


def _alike(missing: Sequence[str], free: Iterable[str]) -> dict[str, str]:
    """The free name for each missing one of the same :func:`name_form`, if there is one of each."""
    wanted, offered = defaultdict(list), defaultdict(list)
    for names, forms in ((missing, wanted), (free, offered)):
        for name in names:
            forms[name_form(name)].append(name)
    both = [(names, offered[form]) for form, names in wanted.items() if form in offered]
    return {ours[0]: theirs[0] for ours, theirs in both if len(ours) == len(theirs) == 1}


def _with_addition(missing: Sequence[str], known: Iterable[str]) -> dict[str, str]:
    """The missing names with the word that all known ones have before or after them, if there is only one.

    A word that all missing names end with is left out, as in ``1_sat`` and ``1_mask``.
    """
    ending = re.search(r'[\W_][^\W\d_][^/\W_]*$', missing[0])
    ending = ending[0] if ending and all(name.endswith(ending[0]) for name in missing) else ''
    stems = {name: Path(name.removesuffix(ending)) for name in missing}
    additions = Counter()
    tried = list(stems.values())[:_TRIED]
    for stem in tried:
        folder = f'{stem.parent}/' if stem.parent.name else ''
        own = rf'([^\W\d_][^/]*[\W_]|){re.escape(stem.name)}([\W_][^\W\d_][^/]*|)'
        form = re.compile(re.escape(folder) + own)
        additions.update(match.groups() for match in map(form.fullmatch, known) if match)
    common = [addition for addition, count in additions.items() if 2 * count > len(tried)]
    if len(common) != 1:
        return {}
    [(before, after)] = common
    return {name: str(stem.with_name(f'{before}{stem.name}{after}')) for name, stem in stems.items()}


def unpaired(
    pairs: Sequence[Pair],
    maps: str | Path,
    suffixes: str | tuple[str, ...] = SUFFIXES,
    listed: bool = False,
) -> list[Problem]:
    """Find images and label maps without a counterpart, and images that share one.

    Args:
        pairs: Images and the maps that they need.
        maps: The folder of label maps.
        suffixes: The suffixes of label maps; other files in the folder are ignored.
        listed: Whether a list has only some of the images, so that the other maps need none.

    Returns:
        The problems.
    """
    existing = set(image_files(maps, suffixes))
    stray = sorted(existing - {label_map for _, label_map in pairs})
    forms = sorted((name_form(str(path)), path) for path in stray)
    images: dict[Path, Path] = {}
    problems = []
    for image, label_map in pairs:
        if label_map not in existing:
            what = f'{image} has no label map: there is no {label_map}{_nearest(label_map, forms)}'
            problems.append(Problem('images without a label map', what))
        elif label_map in images:
            what = f'{image} and {images[label_map]} have the same label map, {label_map}'
            problems.append(Problem('images that share a label map', what))
        images.setdefault(label_map, image)
    for path in [] if listed else stray:
        problems.append(Problem('label maps without an image', f'{path} has no image of the same name'))
    return problems


def _nearest(path: Path, forms: Sequence[tuple[str, Path]]) -> str:
    """The end of a message on a missing file: files whose names begin like it, of sorted forms and paths."""
    form = name_form(str(path.with_suffix('')))
    half = form[: len(form) - len(path.stem) // 2]
    for start in (*(form + separator for separator in '._-'), form, half):
        place = bisect(forms, (start,))
        if near := [other.name for name, other in forms[place : place + 3] if name.startswith(start)]:
            return f', but {shorten(near)}'
    return ''


def label_map_header(path: Path) -> ImageHeader:
    """Find the size of a label map as MMSegmentation reads it, by Pillow.

    Args:
        path: The label map.

    Returns:
        The header; ``turned`` is whether EXIF data says to turn it, which is not done.

    Raises:
        UserError: It cannot be used as a label map.
    """
    with _open_map(path) as image:
        exif = Image.Exif()
        with suppress(*PILLOW_ERRORS, struct.error):
            exif.load(stored_exif(image) or b'')
        return ImageHeader(*image.size[::-1], exif.get(ExifTags.Base.Orientation) in range(2, 9))


def read_label_map(path: Path) -> np.ndarray:
    """Read a label map as training does.

    Args:
        path: A grey image of any depth, or one with a palette, whose indices, not colours, are read.

    Returns:
        Integers, ``(H, W)``.

    Raises:
        UserError: It cannot be used as a label map.
    """
    with _open_map(path) as image:
        values, mode = np.asarray(image), image.mode
    if values.dtype.kind == 'f' and values.ndim == 2 and np.array_equal(values, np.rint(values)):
        values = values.astype(np.int64)
    if values.ndim != 2 or values.dtype.kind not in 'uib':
        kind = 'an image of fractions' if values.dtype.kind == 'f' else 'a colour image'
        raise UserError(
            f'{path} is not a label map but {kind} ({mode});'
            ' write a grey PNG whose pixels are the numbers of the classes'
        )
    return values.astype(np.uint8) if values.dtype == bool else values


@contextmanager
def _open_map(path: Path) -> Iterator[Image.Image]:
    try:
        # as a file and not by its path, for which Pillow turns some TIFF files twice
        with path.open('rb') as file, Image.open(file) as image:
            _refuse_altered(path, image)
            yield image
    except Image.DecompressionBombError as error:
        reason = f'Pillow, which reads label maps, refuses so many pixels: {error}'
        raise UserError(f'{path}: {reason}; cut the image and the map into tiles') from error
    except PILLOW_ERRORS as error:
        why = f' ({reason})' if (reason := getattr(error, 'strerror', None)) else ''
        raise UserError(f'{path} cannot be read as a label map{why}; replace the file') from error


def _refuse_altered(path: Path, image: Image.Image) -> None:
    """Refuse an opened label map of which MMSegmentation would not get the numbers that were written."""
    if image.format in _LOSSY or image.info.get('compression') == 'jpeg':
        raise UserError(
            f'{path} is a JPEG file, which changes numbers along the edges of objects; write it again as PNG,'
            ' from where it was made'
        )
    if image.format == 'PNG' and image.tile and image.tile[0][3] in _STRETCHED:
        raise UserError(
            f'{path} is a grey PNG of less than 8 bits, whose numbers are multiplied when they are read;'
            ' write it with 8 bits'
        )
    if min(image.size) < 2:
        what = f'{path} is {image.width}×{image.height}'
        raise UserError(f'{what}: MMSegmentation reads no label maps with a side of 1 pixel')


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
