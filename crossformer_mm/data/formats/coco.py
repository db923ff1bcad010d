"""Recognise datasets with COCO's annotation files, wherever other programs put them."""

import json
import mmap
import re
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

from ...utils.errors import UserError
from ...utils.text import shorten
from ..coco_images import missing_images
from ..images import SUFFIXES
from .layout import Layout, Split
from .reading import SPLITS, child, folder_in, names_in

_ROBOFLOW = '_annotations.coco.json'
_FOLDERS = ('annotations', 'labels')
_IMAGES = ('images', 'data', 'imgs', 'image', 'img', 'JPEGImages')
_OTHER_TASKS = re.compile(r'(captions|person_keypoints|panoptic|stuff|image_info)_', re.IGNORECASE)
_KEYS = (b'"images"', b'"annotations"', b'"categories"')
_NAME = re.compile(rb'"file_name"\s*:\s*("(?:[^"\\]|\\.)*")')
_TRIED = 5  # image names by which a folder is recognised
_MOST = 20  # JSON files in a folder; more of them are about an image each


def find(root: Path) -> Iterator[Layout]:
    """Recognise datasets in COCO's format: COCO 2017, the exports of other programs, a file beside images.

    Args:
        root: A folder.

    Raises:
        UserError: A file cannot be read, or several files can be the annotations of the same images.
    """
    files = _by_split(root)
    splits = {name: Split(_image_folder(path, root, name), (path,)) for name, path in files.items()}
    if splits:
        yield Layout('coco', title([path.relative_to(root) for path in files.values()]), root, splits)


def _by_split(root: Path) -> dict[str, Path]:
    """The annotation file of each split."""
    places = [root, *(folder for name in _FOLDERS if (folder := folder_in(root, name)))]
    files = [path for place in places for path in _json_files(place)]
    found: dict[str, list[Path]] = {name: [] for name in SPLITS}
    for name, words in SPLITS.items():
        for place in filter(None, (folder_in(place, *words) for place in places)):
            inner = child(place, _ROBOFLOW)
            found[name] += [inner] if inner else _json_files(place)
            if folder := folder_in(place, *_FOLDERS):
                found[name] += _json_files(folder)
    unnamed = []
    for path in files:
        found.get(_split_of(path), unnamed).append(path)
    found['train'] = found['train'] or unnamed
    return {name: _only(paths) for name, paths in found.items() if paths}


def _json_files(folder: Path) -> list[Path]:
    names = [n for n in names_in(folder) if n.lower().endswith('.json') and not n.startswith('.')]
    paths = [folder / name for name in names] if len(names) <= _MOST else []
    return [path for path in paths if path.is_file() and _is_coco(path)]


def _is_coco(path: Path) -> bool:
    """Whether a JSON file seems to be COCO's: a damaged one too, or one in another encoding."""
    if _OTHER_TASKS.match(path.name):
        return False
    if path.name.startswith('instances_') or path.name == _ROBOFLOW:
        return True
    return sum(data.find(key) >= 0 for data in _content(path) for key in _KEYS) > 1


def _content(path: Path) -> Iterator[bytes | mmap.mmap]:
    """The bytes of a file, without the zeros of UTF-16 and UTF-32; nothing if it is empty."""
    try:
        with path.open('rb') as file:
            if b'\0' in (start := file.read(8)):
                yield (start + file.read()).replace(b'\0', b'')
            elif start:
                with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                    yield data
    except OSError as error:
        raise UserError(f'{path} cannot be read: {error.strerror}') from error


def _split_of(path: Path) -> str:
    """The split that a file's name has, such as train for ``instances_train2017.json``; or an empty text."""
    words = re.findall(r'[a-z]+', path.stem.lower())
    return next((name for name, forms in SPLITS.items() if not {*words}.isdisjoint(forms)), '')


def _only(paths: list[Path]) -> Path:
    """The only annotation file of a split, or the only one of instances."""
    named = [path for path in paths if path.name.startswith('instances_')] or paths
    if len(named) > 1:
        names = shorten(map(str, named))
        raise UserError(
            f'{names} can each be the annotations of the same images; choose with --train-ann FILE'
            ' --train-images DIR --val-ann FILE --val-images DIR'
        )
    return named[0]


def _image_folder(path: Path, root: Path, split: str) -> Path:
    """The folder that the image names in an annotation file are relative to."""
    stem = path.stem.partition('_')[2] or path.stem
    words = (stem, path.stem, *SPLITS[split])
    above = [folder for folder in (path.parent, path.parent.parent) if folder.is_relative_to(root)]
    pools = [folder for place in above for name in _IMAGES if (folder := folder_in(place, name))]
    inner = [folder for place in (*pools, *above) if (folder := folder_in(place, *words))]
    folders = list(dict.fromkeys([*inner, *pools, *above]))
    names = _first_names(path)
    for forms in (names, [Path(name).name for name in names]):  # exports can have folders that are not there
        counts = [len(forms) - len(missing_images(forms, folder)) for folder in folders]
        if any(counts):
            return folders[counts.index(max(counts))]
    return next((folder for folder in folders if _has_images(folder)), folders[0])


def _first_names(path: Path) -> list[str]:
    """The first names of images in an annotation file, with slashes."""
    names = []
    for data in _content(path):
        for match in islice(_NAME.finditer(data), _TRIED):
            try:
                names.append(json.loads(match[1].decode(errors='replace')).replace('\\', '/'))
            except ValueError:  # the file is damaged
                continue
    return names


def _has_images(folder: Path) -> bool:
    return any(name.lower().endswith(SUFFIXES) for name in names_in(folder))


def title(files: Iterable[Path]) -> str:
    """What annotation files are called for people, by their paths in the dataset."""
    names = [path.as_posix() for path in files]
    if any(name.endswith(_ROBOFLOW) for name in names):
        return "Roboflow's COCO export"
    if any('instances_' in name and '2017' in name for name in names):
        return 'COCO 2017'
    if any(name.startswith('annotations/instances_') for name in names):
        return "CVAT's COCO export"
    if names == ['result.json']:
        return "Label Studio's COCO export"
    return f'COCO annotations ({", ".join(names)})'
