"""Recognise the layout of a dataset from the names in its folder and the beginnings of a few files."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from ...utils.errors import UserError
from ...utils.text import shorten
from . import coco, label_maps, labelme, voc, yolo
from .layout import Layout
from .reading import names_in

_DETECTION = {'coco': coco.find, 'yolo': yolo.find, 'voc': voc.find, 'labelme': labelme.find}
_SEGMENTATION = ('ade20k', 'cityscapes', 'voc-seg', 'maps')
FORMATS = (*_DETECTION, *_SEGMENTATION)
_EXPECTED = {
    'detection': "COCO's annotations (a JSON file beside the images or in annotations/), YOLO (data.yaml, or"
    ' images/ and labels/), Pascal VOC (Annotations/ and JPEGImages/) or LabelMe (a JSON file per image)',
    'segmentation': 'ADE20K (images/training/ and annotations/training/), Cityscapes (leftImg8bit/ and'
    ' gtFine/), Pascal VOC (JPEGImages/ and SegmentationClass/), or images/ and masks/, each with train/ and'
    ' val/',
}
_SHOWN = 8  # names of files in a message


def recognise(root: Path, kind: str, chosen: str | None = None, own: Layout | None = None) -> Layout:
    """Find the format of a dataset, and its files.

    Args:
        root: The folder of the data, or a ``data.yaml``.
        kind: ``'detection'`` or ``'segmentation'``.
        chosen: The format, if the folder has several.
        own: The dataset at the paths that the config has, if there is one.

    Raises:
        UserError: There is no dataset that a config of this kind reads, or more than one.
    """
    known = tuple(_DETECTION) if kind == 'detection' else _SEGMENTATION
    if chosen not in (None, *known):
        raise UserError(f'--format {chosen}: a config for {kind} reads {", ".join(known)}')
    found, faults = [own] if own else [], []
    for find in _finders(kind, chosen, own and own.format):
        try:
            found += find(root)
        except UserError as error:
            faults.append(error)
    found = [layout for layout in found if chosen in (None, layout.format)]
    if own in found:  # other formats may be the same folders
        found = [
            own,
            *(x for x in found if x.format not in ('maps', own.format) and not _has_folders(x, own)),
        ]
    if faults and not found:
        raise faults[0]
    if len(found) == 1:
        return found[0]
    if found:
        raise UserError(_ambiguity(root, found))
    raise UserError(
        f'--data-root {root}: no data that this config reads{f" in the format {chosen}" if chosen else ""}.'
        f' {_content(root)}. It reads {_EXPECTED[kind]};'
        f' or set the paths with --train-images, --train-ann, --val-images, --val-ann{_hint(root, kind)}'
    )


def _has_folders(layout: Layout, other: Layout) -> bool:
    """Whether a layout has all folders of images and of labels of another one."""
    own, others = ({(s.images, *s.source[:1]) for s in x.splits.values()} for x in (layout, other))
    return others <= own


def _finders(
    kind: str, chosen: str | None, known: str | None = None
) -> list[Callable[[Path], Iterator[Layout]]]:
    """The functions that find data for a kind of config, except a format that is known."""
    if kind == 'segmentation':
        return [label_maps.find]
    return [find for name, find in _DETECTION.items() if chosen in (None, name) and name != known]


def _ambiguity(root: Path, found: Sequence[Layout]) -> str:
    """What to do about several datasets in a folder."""
    names = [layout.format for layout in found]
    both = ' and '.join(f'{layout.title} in {layout.root}' for layout in found)
    if len({*names}) > 1:
        return (
            f'--data-root {root}: {both}; choose with --format {" or --format ".join(dict.fromkeys(names))}'
        )
    if {*names} == {'yolo'}:
        return f'--data-root {root}: {both}; give one of these files as --data-root'
    if len({layout.root for layout in found}) > 1:
        return f'--data-root {root}: {both}; give one of these folders as --data-root'
    return f'--data-root {root}: {both}; choose with --train-images, --train-ann, --val-images and --val-ann'


def _content(root: Path) -> str:
    """What is in a folder, in a sentence without a full stop."""
    names = [f'{name}{"/" * (root / name).is_dir()}' for name in names_in(root) if not name.startswith('.')]
    return f'There is {shorten(names, _SHOWN)}' if names else 'The folder is empty'


def _hint(root: Path, kind: str) -> str:
    """The end of a message if the data are in the only folder of this one."""
    folders = [root / name for name in names_in(root) if (root / name).is_dir() and not name.startswith('.')]
    with suppress(UserError):
        for layout in (
            (x for find in _finders(kind, None) for x in find(folders[0])) if len(folders) == 1 else ()
        ):
            return f'; {folders[0]} has {layout.title}: give it as --data-root'
    return ''
