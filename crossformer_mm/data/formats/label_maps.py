"""Recognise folders of images and label maps."""

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

from ...utils.errors import UserError
from ..images import SUFFIXES
from ..label_files import read_label_map
from .layout import Layout, Split
from .reading import SPLITS, child, folder_in, names_in, read_names

_IMAGES = ('images', 'img_dir', 'image', 'imgs', 'img', 'JPEGImages', 'rgb')
_MAPS = (
    'annotations',
    'ann_dir',
    'labels',
    'masks',
    'label',
    'mask',
    'annot',
    'gt',
    'labelmaps',
    'label_maps',
    'segmentation',
    'SegmentationClass',
    'SegmentationClassPNG',
)
_BESIDE = ('annot', '_annot', 'annotations', '_annotations', '_labels', 'labels', '_masks', 'masks', '_mask')
_CLASSES = ('classes.txt', 'class_names.txt', 'labels.txt')
TRAIN_IDS, _IDS = '_gtFine_labelTrainIds.png', '_gtFine_labelIds.png'
_IGNORED_NAMES = ('__ignore__',)  # the first line in the files of LabelMe's examples, for unlabelled pixels


def find(root: Path) -> Iterator[Layout]:
    """Recognise Cityscapes, VOC segmentation, and other folders of images and of label maps.

    Args:
        root: A folder.

    Raises:
        UserError: A folder cannot be listed, or a file cannot be read.
    """
    devkit = folder_in(root, 'VOCdevkit') or root
    years = [devkit / name for name in names_in(devkit) if name.startswith('VOC2')]
    found = list(_cityscapes(root))
    for folder in (root, *years):
        found += _voc(folder)
    yield from found or _pairs(root)


def _cityscapes(root: Path) -> Iterator[Layout]:
    images, maps = folder_in(root, 'leftImg8bit'), folder_in(root, 'gtFine')
    splits = {}
    for name in SPLITS if images and maps else ():
        own, labels = folder_in(images, name), folder_in(maps, name)
        if own and labels and (ending := _ending(labels)):
            splits[name] = Split(own, (labels,), ending)
    if splits:
        yield Layout('cityscapes', 'Cityscapes', root, splits, _classes(root))


def _ending(folder: Path) -> str | None:
    """What the names of label maps end with; maps with the 19 classes come first."""
    names = {name for place in (folder, *_folders(folder)) for name in names_in(place)}
    return next((end for end in (TRAIN_IDS, _IDS) if any(name.endswith(end) for name in names)), None)


def _folders(folder: Path) -> Iterator[Path]:
    return (folder / name for name in names_in(folder) if (folder / name).is_dir())


def _voc(root: Path) -> Iterator[Layout]:
    images = folder_in(root, 'JPEGImages')
    maps = folder_in(root, 'SegmentationClass')
    if maps and not _has_images(maps):  # older versions of LabelMe write arrays there
        maps = folder_in(root, 'SegmentationClassPNG')
    if not images or not maps:
        return
    sets = folder_in(root, 'ImageSets')
    lists = (sets and folder_in(sets, 'Segmentation')) or sets
    splits = {}
    for name, words in SPLITS.items() if lists else ():
        if listed := child(lists, *(f'{word}.txt' for word in words)):
            splits[name] = Split(images, (maps, listed))
    title = 'Pascal VOC segmentation'
    yield Layout('voc-seg', title, root, splits or {'train': Split(images, (maps,))}, _classes(root))


def _pairs(root: Path) -> Iterator[Layout]:
    """Folders of images and of label maps with the same files, one pair for each split or only one."""
    candidates: dict[str, dict[str, Split]] = {}
    for name, words in SPLITS.items():
        for pair in _split_pairs(root, words):
            kind = '/'.join(part for part in pair[1].relative_to(root).parts if part.lower() not in words)
            for word in sorted(words, key=len, reverse=True):  # as in trainannot
                kind = kind.replace(word, '')
            candidates.setdefault(kind, {})[name] = Split(pair[0], (pair[1],))
    if not candidates:
        for images, maps in _inner_pairs(root):
            candidates[maps.name] = {'train': Split(images, (maps,))}
    chosen = list(candidates.values())
    good = [splits for splits in chosen if _is_map(next(iter(splits.values())).source[0])]
    for splits in good or chosen[:1]:
        first = next(iter(splits.values()))
        names = [str(path.relative_to(root)) for path in (first.images, first.source[0])]
        yield Layout('maps', f'images and label maps ({" and ".join(names)})', root, splits, _classes(root))


def _split_pairs(root: Path, words: Sequence[str]) -> Iterator[tuple[Path, Path]]:
    own = folder_in(root, *words)
    if own:
        yield from _inner_pairs(own)
        for word in _BESIDE:
            if (maps := folder_in(root, f'{own.name}{word}')) and _has_images(own) and _has_images(maps):
                yield own, maps
    for images in filter(None, (folder_in(root, name) for name in _IMAGES)):
        for maps in filter(None, (folder_in(root, name) for name in _MAPS)):
            pair = folder_in(images, *words), folder_in(maps, *words)
            if all(pair) and all(map(_has_images, pair)):
                yield pair
    for maps in filter(None, (folder_in(root, name) for name in _MAPS)):
        labels = folder_in(maps, *words)
        if own and labels and _has_images(own) and _has_images(labels):
            yield own, labels


def _inner_pairs(folder: Path) -> Iterator[tuple[Path, Path]]:
    images = next((p for name in _IMAGES if (p := folder_in(folder, name)) and _has_images(p)), None)
    for maps in filter(None, (folder_in(folder, name) for name in _MAPS)) if images else ():
        if _has_images(maps):
            yield images, maps


def _has_images(folder: Path) -> bool:
    return _first_image(folder) is not None


def _first_image(folder: Path) -> Path | None:
    """An image in a folder or one of its first subfolders."""
    for place in (folder, *islice(_folders(folder), 3)):
        for name in names_in(place):
            if name.lower().endswith(SUFFIXES):
                return place / name
    return None


def _is_map(folder: Path) -> bool:
    try:
        read_label_map(_first_image(folder))
    except UserError:
        return False
    return True


def _classes(root: Path) -> tuple[str, ...] | None:
    file = child(root, *_CLASSES)
    names = [name for name in read_names(file) if name not in _IGNORED_NAMES] if file else []
    return tuple(names) or None
