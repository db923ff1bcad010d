"""Read and check class folders: a folder for each split, and in it one of images for each class."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from ..utils.errors import UserError
from ..utils.text import shorten
from .images import SUFFIXES, image_files
from .label_files import name_form
from .problems import Problem

# Names that other tools give to the folders of these splits.
_OTHER_NAMES = {'train': ('training',), 'val': ('valid', 'validation', 'test', 'testing', 'dev', 'eval')}
_SAME_FOLDERS = (
    'every split needs the same folders: rename, add or remove some; those to validate with may be empty'
)
OTHER_CHOICE = (
    'change metainfo.classes, or use a config without it (the one in a work folder has the classes of that'
    ' training)'
)
_IMBALANCE = 10  # ratio of the largest and smallest number of images of a class
_NAMED = 6  # names of folders in a message


def class_names(folder: Path) -> tuple[str, ...]:
    """The names of a split's class folders, sorted; hidden folders are none.

    Raises:
        UserError: The folder cannot be listed.
    """
    try:
        names = [path.name for path in folder.iterdir() if path.is_dir()]
    except OSError as error:
        raise UserError(f'{folder} cannot be listed: {error.strerror}') from error
    return tuple(sorted(name for name in names if not name.startswith('.')))


@dataclass(frozen=True)
class Split:
    """The images of one split.

    Attributes:
        folder: The folder of the split.
        images: The images in each class folder and its subfolders, by its name; in order.
        listed: The list that selects these images; empty if they are all.
    """

    folder: Path
    images: Mapping[str, Sequence[Path]]
    listed: str = ''

    @property
    def name(self) -> str:
        """The folder, and the list."""
        return f'{self.folder} ({self.listed})' if self.listed else str(self.folder)

    def summary(self, classes: Sequence[str]) -> str:
        """A line for the log: how many images the split has of some classes."""
        counts = [len(self.images[name]) for name in classes if self.images.get(name)]
        return f'{self.name}: {sum(counts)} images of {len(counts)} class{"es" * (len(counts) != 1)}'


def read_split(folder: str | Path, listed: str = '') -> Split:
    """List the images of a split.

    Args:
        folder: The folder of the split.
        listed: A text file with the path of an image per line, relative to the folder; by default, the split
            has all images.

    Raises:
        UserError: A folder or the list cannot be read, or a listed image does not exist.
    """
    folder = Path(folder)
    images = {name: image_files(folder / name) for name in class_names(folder)}
    if not listed:
        return Split(folder, images)
    try:
        lines = Path(listed).read_text('utf-8', 'surrogateescape').split('\n')
    except OSError as error:
        raise UserError(f'{listed} cannot be read as a list of images: {error.strerror}') from error
    chosen = {folder / line for line in lines if line}
    if missing := chosen.difference(*images.values()):
        raise UserError(
            f'{listed}: {min(missing)} is no image in a class folder; restore it, or correct the list'
        )
    return Split(folder, {name: [p for p in paths if p in chosen] for name, paths in images.items()}, listed)


@dataclass(frozen=True)
class ClassData:
    """The splits of a run, and its classes.

    Attributes:
        splits: What each data loader reads: one split, or several that are joined.
        chosen: The classes that the config selects; None for all.
        trained: The classes of the checkpoint to be tested, in the order of its labels; None for a training.
    """

    splits: Mapping[str, Sequence[Split]]
    chosen: tuple[str, ...] | None = None
    trained: tuple[str, ...] | None = None

    @cached_property
    def classes(self) -> tuple[str, ...]:
        """The class names in the order of labels."""
        return self.chosen or self.trained or _names(next(iter(self.splits.values())))

    def problems(self, loader: str) -> Iterator[Problem]:
        """Find what is wrong with the splits of a data loader.

        Args:
            loader: The name of the data loader.
        """
        splits = self.splits[loader]
        if not _names(splits):
            remedy = 'put the images of each class into a folder there, named after the class'
            yield Problem('no class folders', f'{_where(splits)} has no class folders', remedy=remedy)
        if not (_names(splits) and self.classes):
            return
        yield from self._differences(splits)
        if len(self.classes) == 1:
            yield self._one_class(splits)
        training = loader.startswith('train')
        for split in splits:
            yield from _loose_images(split)
            yield from _empty_folders(split, {*self.classes}, training)
        counts = {name: sum(len(split.images.get(name, ())) for split in splits) for name in self.classes}
        if not any(counts.values()):
            which = f' of metainfo.classes: {shorten(self.classes, _NAMED)}' if self.chosen else ''
            what = f'{_where(splits)} has no images in its class folders{which}'
            yield Problem('no images', what, remedy=OTHER_CHOICE if self.chosen else '')
        elif training:
            yield from _imbalance(_where(splits), counts)

    def _differences(self, splits: Sequence[Split]) -> Iterator[Problem]:
        origin = 'the checkpoint' if self.trained else _where(next(iter(self.splits.values())))
        origin = 'metainfo.classes' if self.chosen else origin
        names, where = {*_names(splits)}, _where(splits)
        missing = [name for name in self.classes if name not in names]
        others = sorted(names - {*self.classes})
        forms = {name_form(name): name for name in others}
        for name in tuple(missing):
            if other := forms.pop(name_form(name), None):
                pair = f'the folder {other} in {where} and the class {name} of {origin}'
                what = f'{pair} differ only in case or in the form of accents; give both the same name'
                yield Problem('class names that differ only in case', what)
                missing.remove(name)
                others.remove(other)
        strangers = f'folders that are no classes of {origin}: {shorten(others, _NAMED)}'
        gaps = f'no folders for these classes of {origin}: {shorten(missing, _NAMED)}'
        if others and self.chosen:
            yield Problem('class folders that are left out', f'{where} has {strangers}', fatal=False)
            others = []
        if others or missing:
            what = ', and '.join([strangers] * bool(others) + [gaps] * bool(missing))
            test = self.trained is not None
            remedy = 'give the data that it was trained for, or remove folders' if test else _SAME_FOLDERS
            fatal = bool(others) or not test
            remedy = OTHER_CHOICE if self.chosen else remedy
            yield Problem('classes of one split only', f'{where} has {what}', fatal, remedy)

    def _one_class(self, splits: Sequence[Split]) -> Problem:
        name = self.classes[0]
        what = f'{_where(splits)} has only one class, {name}; a classifier needs two or more'
        inner = next((split.folder / name for split in splits if split.images.get(name)), None)
        remedy = f'if the folders in {inner} are the classes, --train-images must be that folder'
        return Problem('only one class', what, remedy=remedy if inner and class_names(inner) else '')


def _names(splits: Sequence[Split]) -> tuple[str, ...]:
    return tuple(sorted({name for split in splits for name in split.images}))


def _where(splits: Sequence[Split]) -> str:
    return ' and '.join(split.name for split in splits)


def _imbalance(where: str, counts: Mapping[str, int]) -> Iterator[Problem]:
    most, least = max(counts, key=counts.get), min(counts, key=counts.get)
    if 0 < counts[least] * _IMBALANCE < counts[most]:
        what = f'{where} has {counts[most]} images of {most}, but {counts[least]} of {least}'
        remedy = 'look at the recall of each class; ClassBalancedDataset in the config repeats rare classes'
        yield Problem('unbalanced classes', what, False, remedy)


def _loose_images(split: Split) -> Iterator[Problem]:
    for path in sorted(split.folder.iterdir()):
        if path.name.lower().endswith(SUFFIXES) and not path.name.startswith('.') and path.is_file():
            what = f'{path} is in no class folder'
            yield Problem('images outside class folders', what, remedy='move it into the folder of its class')


def _empty_folders(split: Split, classes: Collection[str], training: bool) -> Iterator[Problem]:
    for name, images in split.images.items():
        if name in classes and not images and not split.listed:  # the drawing of the list has warned
            remedy = (
                f'add images ({", ".join(SUFFIXES)}), or remove the class from all splits' if training else ''
            )
            what = f'{split.folder / name} has no images'
            yield Problem('class folders without images', what, training, remedy)


def other_layout(root: Path, missing: Sequence[str]) -> str:
    """Describe what is in a folder that has not the expected ones, for the end of a message.

    Args:
        root: The folder of the data.
        missing: ``'train'`` or ``'val'`` for each folder in it that does not exist.
    """
    if not root.is_dir():
        return ''
    names = class_names(root)
    found = f'; {root} contains {shorten([f"{name}/" for name in names], _NAMED) or "no folders"}'
    hints = [
        f'--{split}-images {name}'
        for split in missing
        for name in names
        if name.lower() in (split, *_OTHER_NAMES[split])
    ]
    if hints:
        return f'{found}: give {" ".join(hints)}'
    if 'annotations' in names:
        return f'{found}, as data of a detector or segmentor'
    with_images = [name for name in names if _holds_images(root / name)]
    if len(with_images) < 2:
        return found
    in_split = any(root.name.lower() in (split, *others) for split, others in _OTHER_NAMES.items())
    remedy = f'give --data-root {root.parent}' if in_split else f'move them into {root / "train"}'
    return f'{found}, which look like the classes of one split: {remedy}'


def _holds_images(folder: Path) -> bool:
    return any(path.name.lower().endswith(SUFFIXES) for path in folder.iterdir())
