"""Read LabelMe datasets: a JSON file per image, with polygons, rectangles, circles and masks."""

import base64
import binascii
import json
import math
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask

from ...utils.files import files_in, write_atomically
from ..coco_json import Content, uncollected
from ..coco_values import Record, as_int, as_number
from ..images import PILLOW_ERRORS, ImageHeader, NoImageError
from ..label_files import name_form
from ..problems import Problem, Report
from .layout import Layout, Split
from .reading import (
    CORRECT,
    FLAGS,
    SPLITS,
    Collection,
    ImageNames,
    Points,
    box_around,
    box_end,
    child,
    clean,
    decode,
    first_files,
    flat,
    folder_in,
    polygon_area,
    read_bytes,
    read_headers,
    read_names,
    report_unlabelled,
)

_LABELS = ('annotations', 'labels', 'json', 'jsons', 'labelme')
_IMAGES = ('images', 'JPEGImages', 'imgs', 'image', 'img')
_NO_CLASSES = ('__ignore__', '_background_')  # in the files of LabelMe's examples
_FLAT = ('line', 'linestrip', 'point', 'points')
_POLYGONS = ('polygon', 'rotation', 'oriented_rectangle', 'quadrilateral')
_LARGEST = 1 << 27  # bytes of a label file, which may contain its image
_CIRCLE = 64  # corners of a circle's polygon


@dataclass(frozen=True)
class _File:
    """A label file.

    Attributes:
        image: The ``imagePath`` in it, with slashes.
        size: Height and width; None if they are missing.
    """

    path: Path
    image: str
    size: tuple[int, int] | None
    shapes: list[Record]
    has_image: bool


class _Fault(Exception):
    """What is wrong with a file: the kind of problem, and a message."""


def find(root: Path) -> Iterator[Layout]:
    """Recognise LabelMe datasets: JSON files beside the images, or in a folder of their own.

    Args:
        root: A folder, which may have folders for the splits.

    Raises:
        UserError: A file cannot be read.
    """
    splits = {}
    labels, images = folder_in(root, *_LABELS), folder_in(root, *_IMAGES)
    for name, words in SPLITS.items():
        own, inner = folder_in(root, *words), labels and folder_in(labels, *words)
        beside = images and folder_in(images, *words)
        found = (
            (own and _whole(own))
            or (inner and _split(inner, beside or images or inner))
            or (beside and _split(beside, beside))
        )
        if found:
            splits[name] = found
    if not splits and (whole := _whole(root)):
        splits['train'] = whole
    if splits:
        folders = [root, *(folder for split in splits.values() for folder in (split.images, *split.source))]
        files = (child(folder, 'labels.txt', 'classes.txt') for folder in folders)
        file = next(filter(None, files), None)
        names = [name for name in read_names(file) if name not in _NO_CLASSES] if file else []
        yield Layout('labelme', 'LabelMe', root, splits, tuple(names) or None)


def _whole(root: Path) -> Split | None:
    """A folder that is not split."""
    labels, images = folder_in(root, *_LABELS), folder_in(root, *_IMAGES)
    candidates = ((labels, images or root), (images, images), (root, images or root))
    return next((split for folder, place in candidates if folder and (split := _split(folder, place))), None)


def _split(folder: Path, images: Path) -> Split | None:
    """A split with label files in a folder, as far as the first of them show."""
    files = (path for path in first_files(folder, '.json') if path.stat().st_size < _LARGEST)
    texts = (decode(read_bytes(path)) for path in files)
    found = any('"shapes"' in text and ('"imagePath"' in text or '"imageData"' in text) for text in texts)
    return Split(images, (folder,)) if found else None


def _is_labelme(content: Any) -> bool:
    keys = set(content) if isinstance(content, dict) else set()
    return 'shapes' in keys and not keys.isdisjoint(('imagePath', 'imageData'))


def class_names(layout: Layout) -> tuple[str, ...]:
    """The classes of all splits; without a list of names, those of all shapes, sorted."""
    if layout.classes:
        return layout.classes
    names = set()
    for folder in dict.fromkeys(split.source[0] for split in layout.splits.values()):
        for path in _label_files(folder):
            try:
                file = _parse(path)
            except _Fault:
                continue
            shapes = file.shapes if file else ()
            names.update(clean(shape.get('label') or '') for shape in shapes if _kind(shape) not in _FLAT)
    return tuple(sorted(names - {'', *_NO_CLASSES}))


def _label_files(folder: Path) -> list[Path]:
    return [path for path in files_in(folder) if path.suffix.lower() == '.json']


@uncollected()
def read(
    layout: Layout, split: str, report: Report, ignore_exif: bool = False, extracted: Path | None = None
) -> Content:
    """Read a split as COCO content.

    Shapes of the same label and ``group_id`` in an image are one object. Rectangles and circles have polygons
    too. Lines and points are left out.

    Args:
        layout: From :func:`find`.
        split: The name of the split.
        report: Called with each problem; files with a fatal one are left out.
        ignore_exif: Whether the run loads the stored pixels, without turning them.
        extracted: A folder to write images to that are only inside their JSON files; their file names are
            absolute. Without it, they are a fatal problem.

    Raises:
        UserError: A file or folder cannot be read.
    """
    source = layout.splits[split]
    files, paths = [], []
    find_image = _image_finder(ImageNames(source.images, source.source[0]))
    for path in _label_files(source.source[0]):
        try:
            file = _parse(path)
            if file is None:
                report(Problem("JSON files that are not LabelMe's, ignored", str(path), fatal=False))
            elif image := find_image(file) or _extract(file, extracted, report):
                files.append(file)
                paths.append(image)
        except _Fault as fault:
            kind, what = fault.args
            report(Problem(kind, f'{path}{what}', remedy=CORRECT))
    report_unlabelled(layout, split, {*paths}, 'images without a label file, left out', report)
    headers = read_headers(paths, ignore_exif)
    collection = Collection(source.images, class_names(layout), report)
    for file, path, header in zip(files, paths, headers, strict=True):
        _add_file(file, path, header, collection)
    return collection.content


def _parse(path: Path) -> _File | None:
    """The content of a label file; None if it is another kind of file."""
    try:
        content = json.loads(decode(read_bytes(path)))
    except json.JSONDecodeError as error:
        raise _Fault('invalid JSON files', f', line {error.lineno}: {error.msg}') from error
    except (ValueError, RecursionError) as error:
        raise _Fault('invalid JSON files', f': {error}') from error
    if not _is_labelme(content):
        return None
    shapes = content['shapes']
    if not isinstance(shapes, list) or not all(isinstance(shape, dict) for shape in shapes):
        raise _Fault('invalid label files', ': its "shapes" is not a list of objects')
    size = as_int(content.get('imageHeight')), as_int(content.get('imageWidth'))
    image = content.get('imagePath')
    return _File(
        path,
        image.replace('\\', '/') if isinstance(image, str) else '',
        size if None not in size else None,
        shapes,
        bool(content.get('imageData')),
    )


def _image_finder(images: ImageNames) -> Callable[[_File], Path | None]:
    """A function that finds the image of a label file, or returns None."""

    def find_image(file: _File) -> Path | None:
        name = PurePosixPath(file.image).name
        own = Path(os.path.normpath(file.path.parent / file.image))
        if file.image and own.is_file():
            return own
        named = images.by_name.get(name_form(name), []), images.by_stem.get(name_form(file.path.stem), [])
        for candidates in named:
            if near := images.near(candidates, file.path):
                return near[0]
        return None

    return find_image


def _extract(file: _File, folder: Path | None, report: Report) -> Path | None:
    """Write the image in a label file to a folder; without any image, report the file."""
    if not file.has_image:
        what = f'{file.path} (its imagePath is "{file.image:.80}")'
        report(Problem('label files without an image, ignored', what, fatal=False))
        return None
    if folder is None:
        what = f'{file.path}: its image is only inside the file'
        report(Problem('images inside label files', what, remedy=f'save it beside the file as {file.image}'))
        return None
    try:
        data = base64.b64decode(json.loads(decode(read_bytes(file.path)))['imageData'])
        with Image.open(BytesIO(data)) as image:
            suffix = {'JPEG': '.jpg'}.get(image.format, f'.{image.format.lower()}')
    except (binascii.Error, TypeError, *PILLOW_ERRORS) as error:
        raise _Fault('images that cannot be read', ': its imageData is not an image') from error
    folder.mkdir(parents=True, exist_ok=True)
    target = folder.absolute() / f'{file.path.stem}{suffix}'
    return write_atomically(target, lambda part: part.write_bytes(data), digest_in_name=True, overwrite=True)


def _add_file(file: _File, path: Path, header: ImageHeader | NoImageError, collection: Collection) -> None:
    """Add the image of a label file and its objects."""
    objects = _objects(file, collection)
    points = [point for group in objects for shape in group for point in shape.points]
    right, low = box_end(points) if points else (0, 0)
    folder = collection.folder
    name = path.relative_to(folder) if path.is_relative_to(folder) else path.absolute()
    image = collection.add_image(name.as_posix(), header, file.size, (right, low))
    for group in objects if image else ():
        _add_object(group, image, collection)


@dataclass(frozen=True)
class _Shape:
    """A valid shape.

    Attributes:
        points: The corners of its polygon, or of the box of its mask.
        mask: The pixels in this box that belong to it; None for a polygon.
        where: Gives its file and line.
    """

    name: str
    points: Points
    mask: np.ndarray | None
    flags: dict[str, int]
    where: Callable[[], str]


def _objects(file: _File, collection: Collection) -> list[list[_Shape]]:
    """The shapes of a file, those of one object together."""
    groups: dict[Any, list[_Shape]] = {}
    for i, record in enumerate(file.shapes):
        name, group = clean(record.get('label') or ''), record.get('group_id')

        def where(i: int = i) -> str:
            return f'{file.path}, line {_line(file.path, i)}'

        try:
            shape = _Shape(name, *_outline(record), _flags(record), where)
        except _Fault as fault:
            kind, what = fault.args
            collection.report(Problem(kind, f'{where()}: "{name}" {what}', remedy=CORRECT))
            continue
        if name in _NO_CLASSES or not shape.points:
            kind = name if name in _NO_CLASSES else record.get('shape_type')
            what = f'{where()}: {name}'
            collection.report(Problem(f'shapes without area or class ({kind}), left out', what, fatal=False))
        elif name not in collection.classes:
            what = f'{where()}: "{name}" is none of the classes {", ".join(collection.classes):.200}'
            collection.report(Problem('shapes of unknown classes', what))
        else:
            key = i if group in (None, '') else (name, str(group))
            groups.setdefault(key, []).append(shape)
    return list(groups.values())


def _line(path: Path, index: int) -> int:
    """The line of a shape in a file."""
    text = decode(read_bytes(path))
    match = next(islice(re.finditer(r'"points"\s*:', text), index, None), None)
    return text.count('\n', 0, match.start()) + 1 if match else 1


def _outline(record: Record) -> tuple[Points, np.ndarray | None]:
    """The polygon of a shape, without points if it has no area; or the corners of its box and its mask."""
    kind, points = _kind(record), _points(record.get('points'))
    if kind in _FLAT or (kind in _POLYGONS and len(points) < 3):
        return [], None
    if kind in _POLYGONS:
        return points, None
    if len(points) < 2 or kind not in ('rectangle', 'circle', 'mask'):
        raise _Fault('invalid shapes', f'is a {kind!r:.30} of {len(points)} points')
    if kind == 'circle':
        (x, y), edge = points[:2]
        radius = math.dist(points[0], edge)
        angles = (2 * math.pi * i / _CIRCLE for i in range(_CIRCLE))
        return [(x + radius * math.cos(angle), y + radius * math.sin(angle)) for angle in angles], None
    left, top, width, height = box_around(points)
    mask = _mask(record) if kind == 'mask' else None
    if mask is not None:
        height, width = mask.shape
    right, low = left + width, top + height
    return [(left, top), (right, top), (right, low), (left, low)], mask


def _kind(record: Record) -> str:
    return record.get('shape_type') or 'polygon'


def _points(value: Any) -> Points:
    points = value if isinstance(value, list) else None
    if points is None or any(not isinstance(p, list) or len(p) != 2 for p in points):
        raise _Fault('invalid shapes', f'has the points {value!r:.60}; LabelMe writes [[x, y], …]')
    numbers = [(as_number(x), as_number(y)) for x, y in points]
    if wrong := next((p for p, pair in zip(points, numbers, strict=True) if None in pair), None):
        raise _Fault('invalid shapes', f'has the point {wrong!r:.60}')
    return numbers


def _mask(record: Record) -> np.ndarray:
    try:
        with Image.open(BytesIO(base64.b64decode(record.get('mask')))) as image:
            return np.asarray(image.convert('L')) > 0
    except (binascii.Error, TypeError, *PILLOW_ERRORS) as error:
        raise _Fault('invalid shapes', 'has a mask that is not an image') from error


def _flags(record: Record) -> dict[str, int]:
    """The flags of a shape that are set."""
    given = record.get('flags')
    given = {**given, **record} if isinstance(given, dict) else record
    return {flag: 1 for flag in FLAGS if given.get(flag) in (True, 1)}


def _add_object(shapes: Sequence[_Shape], image: Record, collection: Collection) -> None:
    """Add the object of some shapes."""
    first = shapes[0]
    flags = {flag: value for shape in shapes for flag, value in shape.flags.items()}
    if all(shape.mask is None for shape in shapes):
        points = [point for shape in shapes for point in shape.points]
        polygons = [flat(shape.points) for shape in shapes]
        area = sum(polygon_area(shape.points) for shape in shapes)
        collection.add_object(first.where, image, first.name, box_around(points), polygons, area, **flags)
        return
    height, width = image['height'], image['width']
    parts = []
    for shape in shapes:
        if shape.mask is None:
            parts += coco_mask.frPyObjects([flat(shape.points)], height, width)
        else:
            parts.append(coco_mask.encode(_placed(shape, height, width)))
    rle = coco_mask.merge(parts)
    box, area = coco_mask.toBbox(rle).tolist(), float(coco_mask.area(rle))
    text = {'size': [height, width], 'counts': rle['counts'].decode()}
    collection.add_object(first.where, image, first.name, box, text, area, **flags)


def _placed(shape: _Shape, height: int, width: int) -> np.ndarray:
    """A shape's mask in the image, ``(H, W)``, in the order of bytes that pycocotools needs."""
    left, top = (round(number) for number in shape.points[0])
    whole = np.zeros((height, width), np.uint8, 'F')
    inside = shape.mask[max(-top, 0) :, max(-left, 0) :][: height - max(top, 0), : width - max(left, 0)]
    top, left = max(top, 0), max(left, 0)
    whole[top : top + inside.shape[0], left : left + inside.shape[1]] = inside
    return whole
