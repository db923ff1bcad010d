"""Convert datasets of other formats to COCO's annotation files, once, in a cache beside the work folder.

A set of files belongs to a key of everything that it depends on. Images are not copied: file names are
relative to their original folder.
"""

import hashlib
import json
import os
from collections.abc import Collection, Iterator
from contextlib import suppress
from pathlib import Path

from ...utils.errors import UserError
from ...utils.files import files_in, sha256_of
from ...utils.locks import NAME as LOCK
from ...utils.locks import locked
from ...utils.outputs import LIST, is_output, write_output
from ..coco_json import CONVERTED_FROM, Content
from ..images import SUFFIXES
from ..problems import Findings, Problem, Report, fatal_apart, refuse
from . import labelme, voc, yolo
from .layout import Layout

VERSION = 2  # of the readers; another one converts all data again
CONVERTED = ('yolo', 'voc', 'labelme')
FOLDER = 'converted'  # beside the work folder
_OPTION = '--work-dir'
_ABOUT = 'about.json'
_LABELS = ('.txt', '.xml', '.json', '.yaml', '.yml', '.names', '.data', '.labels')
_SMALL = 1 << 20  # bytes of a label file whose content is in the key; larger ones contain their images
_DIGITS = 12


def cache_folder(layout: Layout, work_dir: Path, ignore_exif: bool = False) -> Path:
    """The folder in the cache for a dataset as it is now; it need not exist.

    Args:
        layout: The dataset.
        work_dir: The work folder, beside which the cache is; neither is a part of the data.
        ignore_exif: Whether the run loads the stored pixels, without turning them.

    Raises:
        UserError: A file or folder cannot be read.
    """
    root = layout.root.resolve()
    splits = {name: [split.images, *split.source] for name, split in layout.splits.items()}
    described = [VERSION, ignore_exif, str(root), layout.format, layout.classes]
    described += [[name, *(_relative(path, root) for path in paths)] for name, paths in splits.items()]
    digest = hashlib.sha256(json.dumps(described).encode())
    for path in _inputs(layout, work_dir):
        try:
            status = path.stat()
            is_text = status.st_size <= _SMALL and path.name.lower().endswith(_LABELS)
            content = sha256_of(path) if is_text else status.st_mtime_ns
        except OSError as error:
            raise UserError(f'{path} cannot be read: {error.strerror}') from error
        digest.update(json.dumps([_relative(path, root), status.st_size, content]).encode())
    return work_dir.parent / FOLDER / f'{root.name}-{digest.hexdigest()[:_DIGITS]}'


def _relative(path: Path, root: Path) -> str:
    return os.path.relpath(path, root)


def _inputs(layout: Layout, work_dir: Path) -> Iterator[Path]:
    """The images and label files of a dataset, without what runs wrote beside them."""
    outputs = work_dir.parent.resolve()
    folders = [layout.root]
    for split in layout.splits.values():
        folders += [split.images, *split.source]
        folders += [yolo.labels_of(path) for path in split.source if layout.format == 'yolo']
    if layout.format == 'yolo':
        folders += yolo.listed_files(layout)
    outside = [path for path in dict.fromkeys(folders) if not path.is_relative_to(layout.root)]
    for folder in (layout.root, *outside):
        real = folder.resolve()
        # directly in the folder of the data, work folders are beside the data
        written = [outputs] if real in outputs.parents else [outputs / FOLDER, work_dir.resolve()]
        around = real in (outputs, *outputs.parents)
        for path in [folder] if folder.is_file() else files_in(folder):
            is_output = around and any(map(path.resolve().is_relative_to, written))
            is_input = not path.suffix or path.name.lower().endswith((*SUFFIXES, *_LABELS))
            if is_input and not is_output:
                yield path


def convert(layout: Layout, splits: Collection[str], folder: Path, ignore_exif: bool = False) -> None:
    """Write the COCO annotation files ``SPLIT.json`` of a dataset, unless they exist.

    Earlier conversions of a dataset that has changed since are removed, unless a training is running.

    Args:
        layout: The dataset.
        splits: The splits that are needed; all of them are read before the first is written.
        folder: From :func:`cache_folder`.
        ignore_exif: Whether the run loads the stored pixels, without turning them.

    Raises:
        UserError: The data are invalid, or a file cannot be written.
    """
    if not _missing(splits, folder):
        return
    try:
        with locked(folder.parent, _OPTION, wait=True):
            contents = {
                split: _checked(layout, split, folder.parent, ignore_exif)
                for split in _missing(splits, folder)
            }
            about = json.dumps([str(layout.root.resolve()), layout.format, ignore_exif])
            _write(folder / _ABOUT, about)
            for split, content in contents.items():
                _write(file_of(folder, split), json.dumps(content))
            _remove_others(folder, about)
    finally:
        with suppress(OSError):  # not empty, unless the data were refused
            folder.parent.rmdir()


def _checked(layout: Layout, split: str, place: Path, ignore_exif: bool) -> Content:
    """A split without fatal problems, and with notes on the others."""
    fatal: list[Problem] = []
    findings = Findings(1)
    content = read(layout, split, fatal_apart(fatal, findings.add), place, ignore_exif)
    refuse(fatal)
    content[CONVERTED_FROM]['notes'] = list(findings.summary())
    return content


def file_of(folder: Path, split: str) -> Path:
    """The annotation file of a split in a folder of converted files."""
    return folder / f'{split}.json'


def format_of(folder: Path) -> str | None:
    """The format that a folder of converted files was made from; None if there is no such folder."""
    file = folder / _ABOUT
    return json.loads(file.read_text())[1] if is_output(file) else None


def _missing(splits: Collection[str], folder: Path) -> list[str]:
    return [split for split in dict.fromkeys(splits) if not is_output(file_of(folder, split))]


def _write(path: Path, text: str) -> None:
    write_output(path, lambda part: part.write_text(text))


def read(layout: Layout, split: str, report: Report, place: Path, ignore_exif: bool = False) -> Content:
    """Read a split of a dataset as a training uses it: difficult objects are ignored, as VOC defines.

    Args:
        layout: The dataset.
        split: The name of the split.
        report: Called with each problem.
        place: The folder for images that are only inside label files.
        ignore_exif: Whether the run loads the stored pixels, without turning them.

    Returns:
        COCO content, with its origin under :data:`CONVERTED_FROM`.

    Raises:
        UserError: A file or folder cannot be read.
    """
    if layout.format == 'labelme':
        images = place / f'{layout.root.resolve().name}-images'
        content = labelme.read(layout, split, report, ignore_exif, images)
    else:
        content = {'yolo': yolo, 'voc': voc}[layout.format].read(layout, split, report, ignore_exif)
    names = {image['id']: image['file_name'] for image in content['images']}
    for annotation in content['annotations']:
        if annotation.get('difficult') and not annotation['iscrowd']:
            annotation['iscrowd'] = 1
            kind = 'difficult objects, which training and evaluation ignore (iscrowd)'
            report(Problem(kind, names[annotation['image_id']], fatal=False))
    content[CONVERTED_FROM] = {'source': f'{layout.root} ({layout.title}, {split})'}
    return content


def _remove_others(folder: Path, about: str) -> None:
    """Remove conversions of the same data as they were, unless a training may be reading them."""
    own = f'process {os.getpid()} '
    locks = folder.parent.parent.glob(f'*/{LOCK}')
    if any(not path.read_text(errors='replace').startswith(own) for path in locks):
        return
    for other in folder.parent.glob(f'{folder.name[:-_DIGITS]}*'):
        file = other / _ABOUT
        if other == folder or not is_output(file) or file.read_text() != about:
            continue
        outputs = [path for path in other.iterdir() if is_output(path)]
        if len(outputs) + 1 == len(list(other.iterdir())):  # and the list of them
            for path in (*outputs, other / LIST):
                path.unlink()
            other.rmdir()
