"""Read YOLO datasets."""

from collections.abc import Iterator
from pathlib import Path

from ..coco_json import Content
from ..problems import Report
from .layout import Layout


def find(root: Path) -> Iterator[Layout]:
    """Recognise the layouts of a folder by listing folders."""
    raise NotImplementedError


def class_names(layout: Layout) -> tuple[str, ...]:
    """The classes of all splits, read from the labels if the layout does not name them."""
    raise NotImplementedError


def read(layout: Layout, split: str, report: Report, ignore_exif: bool = False) -> Content:
    """Read a split as COCO content."""
    raise NotImplementedError


def write(content: Content, images: Path, out: Path, split: str, masks: bool = True) -> None:
    """Write a split of COCO content, with copies of its images."""
    raise NotImplementedError
