"""What the readers of all formats share: folders, text files, sizes of images, and the COCO content."""

import os
import re
import unicodedata
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from ...utils.errors import UserError
from ...utils.progress import map_in_threads
from ..coco_boxes import LEFT_OUT, leaves_out
from ..coco_images import size_fault
from ..coco_json import Content
from ..coco_values import Record
from ..images import REPLACE, ImageHeader, NoImageError, image_files, image_header, quiet_decoders
from ..label_files import name_form
from ..problems import Problem, Report
from .layout import Layout

SPLITS = {
    'train': ('train', 'training'),
    'val': ('val', 'valid', 'validation'),
    'test': ('test', 'testing'),
}
FLAGS = ('difficult', 'truncated', 'occluded', 'iscrowd')  # of objects, in label files
CORRECT = 'correct the file, or remove it'  # a remedy
# two bytes that are no accents in a word, or two characters
_CHINESE = re.compile(rb'(?<![A-Za-z])[\xa1-\xfe]{2}|[\xa1-\xfe]{4}')

Points = list[tuple[float, float]]
Box = Sequence[float]


def names_in(folder: Path) -> list[str]:
    """The names of the files and folders in a folder, sorted; none if it does not exist.

    Raises:
        UserError: The folder cannot be listed.
    """
    try:
        return sorted(os.listdir(folder))  # noqa: PTH208 # faster than Path objects for many files
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise UserError(f'{folder} cannot be listed: {error.strerror}') from error


def child(folder: Path, *names: str) -> Path | None:
    """The first of some files or folders that a folder has, in any case of letters."""
    present = {name.lower(): name for name in names_in(folder)}
    return next((folder / present[name.lower()] for name in names if name.lower() in present), None)


def first_files(folder: Path, suffix: str, levels: int = 2, most: int = 3) -> list[Path]:
    """The first files with a suffix, in any case of letters, in a folder or else in the folders below it."""
    places = [folder]
    for _ in range(levels):
        paths = [p / name for p in places for name in names_in(p) if not name.startswith('.')]
        found = (path for path in paths if path.name.lower().endswith(suffix) and path.is_file())
        if first := list(islice(found, most)):
            return first
        places = [path for path in paths if path.is_dir()]
    return []


def folder_in(folder: Path, *names: str) -> Path | None:
    """The first of some folders in a folder, in any case of letters."""
    found = child(folder, *names)
    return found if found and found.is_dir() else None


def read_bytes(path: Path) -> bytes:
    """The content of a file.

    Raises:
        UserError: It cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f'{path} cannot be read: {error.strerror}') from error


def read_text(path: Path) -> str:
    """The text of a file, see :func:`decode`.

    Raises:
        UserError: It cannot be read.
    """
    return decode(read_bytes(path))


def decode(data: bytes) -> str:
    """Decode text in UTF-8, UTF-16 with a byte order mark, or what Windows writes in China or Europe."""
    if data.startswith((b'\xff\xfe', b'\xfe\xff')):
        return data.decode('utf-16', 'replace')
    chinese = _CHINESE.search(data) is not None
    for encoding in ('utf-8-sig', *(['gb2312'] if chinese else []), 'cp1252'):  # from the strictest
        try:
            return data.decode(encoding)
        except UnicodeDecodeError:
            continue
    return data.decode('latin-1')


def read_names(path: Path) -> tuple[str, ...]:
    """The class names in a text file, one per line.

    Raises:
        UserError: The file cannot be read, has no name, or an empty or repeated one.
    """
    names = [clean(line) for line in read_text(path).rstrip().splitlines()]
    check_names(names, f'{path},')
    if not names:
        raise UserError(f'{path} is empty; each line must be the name of one class')
    return tuple(names)


def check_names(names: Sequence[str], source: str) -> None:
    """Check class names from the lines of a text file.

    Args:
        names: The names.
        source: The file, for the start of the message.

    Raises:
        UserError: One of them is empty, or repeats another.
    """
    for number, name in enumerate(names, start=1):
        if not name or name in names[: number - 1]:
            what = f'repeats "{name}"' if name else 'is empty'
            raise UserError(f'{source} line {number} {what}; each line must be the name of one class')


def clean(name: Any) -> str:
    """A class name as text without surrounding spaces, in which an accent is one character."""
    return unicodedata.normalize('NFC', str(name)).strip()


def read_headers(paths: Sequence[Path], ignore_exif: bool) -> list[ImageHeader | NoImageError]:
    """The sizes of images as they are loaded, or why they cannot be read.

    Args:
        paths: The images.
        ignore_exif: Whether the run loads the stored pixels, without turning them.
    """
    with quiet_decoders():
        return list(
            map_in_threads(_header, paths, [ignore_exif] * len(paths), description='read image sizes')
        )


def _header(path: Path, ignore_exif: bool) -> ImageHeader | NoImageError:
    try:
        return image_header(path, ignore_exif)
    except NoImageError as error:
        return error


class ImageNames:
    """The images in a folder and its subfolders, by their names in any case of letters.

    Args:
        folder: The folder.
        labels: The folder of their label files.

    Attributes:
        by_name: The images of each name, without folders.
        by_stem: The same without suffixes.
    """

    def __init__(self, folder: Path, labels: Path) -> None:
        self.by_name: dict[str, list[Path]] = {}
        self.by_stem: dict[str, list[Path]] = {}
        self._labels, self._folders = labels, set()
        for path in image_files(folder):
            self.by_name.setdefault(name_form(path.name), []).append(path)
            self.by_stem.setdefault(name_form(path.stem), []).append(path)
            self._folders.add(path.parent.name)

    def near(self, paths: Sequence[Path], file: Path) -> Sequence[Path]:
        """Those of some images that a label file can be for.

        They are in a folder of the name of the file's folder, unless there is no such folder of images.
        """
        name = file.parent.name
        is_sorted = file.parent != self._labels and name in self._folders
        return [path for path in paths if path.parent.name == name] or ([] if is_sorted else paths)


def report_unlabelled(layout: Layout, split: str, labelled: set[Path], kind: str, report: Report) -> None:
    """Report the images of a split without labels, unless other splits have images in the same folder.

    Args:
        layout: The dataset.
        split: The name of the split.
        labelled: Its images with labels.
        kind: What to call the problem.
        report: Called with each image.
    """
    folder = layout.splits[split].images
    if sum(other.images == folder for other in layout.splits.values()) == 1:
        for path in image_files(folder):
            if path not in labelled:
                report(Problem(kind, str(path), fatal=False))


class Collection:
    """COCO content in the making.

    Args:
        folder: The folder that file names are relative to.
        classes: The names of the classes.
        report: Called with each problem.
    """

    def __init__(self, folder: Path, classes: Sequence[str], report: Report) -> None:
        self.folder, self.classes, self.report = folder, classes, report
        categories = [{'id': i, 'name': name, 'supercategory': ''} for i, name in enumerate(classes, 1)]
        self.content: Content = {'images': [], 'annotations': [], 'categories': categories}
        self._names: set[str] = set()
        self._ids = {name: i for i, name in enumerate(classes, 1)}

    def add_image(
        self,
        name: str,
        header: ImageHeader | NoImageError,
        annotated: tuple[int, int] | None = None,
        reach: tuple[float, float] = (0, 0),
    ) -> Record | None:
        """Add an image with the size of its file.

        Args:
            name: The file, relative to the folder, with slashes.
            header: From :func:`read_headers`.
            annotated: The height and width in the labels, if they have them.
            reach: How far right and down its objects reach, in pixels.

        Returns:
            The record; None if the image cannot be read or its labels are of another size, which is reported.
        """
        path = self.folder / name
        if isinstance(header, NoImageError):
            self.report(Problem('images that cannot be read', f'{path} {header}', remedy=REPLACE))
            return None
        if name in self._names:
            kind = 'images with more than one label file'
            self.report(Problem(kind, str(path), remedy='remove the others'))
            return None
        self._names.add(name)
        image = {'file_name': name, 'height': header.height, 'width': header.width}
        if annotated not in (None, header[:2]) and min(annotated) > 0:
            swapped = annotated == (header.width, header.height) and not header.turned
            if not swapped or reach[0] > header.width + 1 or reach[1] > header.height + 1:
                labelled = {**image, 'height': annotated[0], 'width': annotated[1]}
                self.report(Problem('images of another size', size_fault(labelled, self.folder, header)))
                return None
            kind = 'height and width that are the wrong way round, exchanged'
            self.report(Problem(kind, f'{path} has {header.width}×{header.height} pixels', fatal=False))
        image = {'id': len(self.content['images']) + 1, **image}
        self.content['images'].append(image)
        return image

    def add_object(
        self,
        where: Callable[[], str],
        image: Record,
        name: str,
        box: Box,
        segmentation: Any = None,
        area: float | None = None,
        **flags: Any,
    ) -> None:
        """Add an object.

        Args:
            where: Gives file and line, for a warning about an object that training leaves out.
            image: From :meth:`add_image`.
            name: Its class.
            box: Left, top, width, height, in pixels.
            segmentation: Polygons or run lengths, if it has any.
            area: In pixels; by default, the box's.
            **flags: Further keys, such as ``difficult``.
        """
        left, top, width, height = box
        annotation = {
            'id': len(self.content['annotations']) + 1,
            'image_id': image['id'],
            'category_id': self._ids[name],
            'bbox': [left, top, width, height],
            'area': width * height if area is None else area,
            'iscrowd': 0,
            **flags,
        }
        if segmentation is not None:
            annotation['segmentation'] = segmentation
        if why := leaves_out(annotation, image):
            what = f'{where()}: {name} has the box {[round(side, 3) for side in box]} {why}'
            self.report(Problem(LEFT_OUT, what, fatal=False))
        self.content['annotations'].append(annotation)


def box_around(points: Points) -> list[float]:
    """Left, top, width and height of the box around points."""
    xs, ys = zip(*points, strict=True)
    return [min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)]


def box_end(points: Points) -> tuple[float, float]:
    """The right and lower end of the box around points."""
    return max(x for x, _ in points), max(y for _, y in points)


def polygon_area(points: Points) -> float:
    """The area of a polygon, by the shoelace formula."""
    turned = [*points[1:], points[0]]
    return abs(sum(x * v - u * y for (x, y), (u, v) in zip(points, turned, strict=True))) / 2


def flat(points: Points) -> list[float]:
    """The points of a polygon as COCO writes them: x, y, x, y, …"""
    return [number for point in points for number in point]
