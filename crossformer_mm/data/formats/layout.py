"""Where a dataset's images and labels are."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Split:
    """A part of a dataset.

    Attributes:
        images: The folder that file names are relative to.
        source: What the reader of the format needs: annotation files, folders, or lists of images. For label
            maps, their folder, and the list of the images' names if the folders have other images too.
        ending: What the names of label maps end with, if other images are beside them.
    """

    images: Path
    source: tuple[Path, ...] = ()
    ending: str = ''


@dataclass(frozen=True)
class Layout:
    """A dataset in a folder.

    Attributes:
        format: The name of the format, such as ``'coco'``, ``'yolo'`` or ``'voc'``.
        title: What it is called for people.
        root: The folder.
        splits: ``'train'``, ``'val'`` and ``'test'``; a dataset that is not split has ``'train'`` only.
        classes: The names of the classes in the order of the labels; None if only the labels have them.
    """

    format: str
    title: str
    root: Path
    splits: Mapping[str, Split]
    classes: tuple[str, ...] | None = None

    def __str__(self) -> str:
        """What was found, in a line for the log."""
        return f'{self.root}: {self.title}, {", ".join(self.splits)}'
