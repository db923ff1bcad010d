"""Read and write YOLO datasets: a text file per image, with a box or a polygon per line.

A line is ``class x y width height`` (the centre of a box) or ``class x y x y x y …`` (a polygon), in
fractions of the image. Labels are beside the images, or in a folder ``labels`` with the structure of the
folder ``images``. Oriented boxes are polygons of four points.
"""

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache
from itertools import chain, islice
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from ...utils.errors import UserError
from ...utils.files import files_in
from ..coco_json import Content, uncollected
from ..coco_values import Record
from ..images import SUFFIXES, image_files
from ..problems import Problem, Report
from .layout import Layout, Split
from .reading import (
    SPLITS,
    Collection,
    Points,
    box_around,
    child,
    clean,
    flat,
    folder_in,
    names_in,
    polygon_area,
    read_headers,
    read_names,
    read_text,
)
from .seams import join, outlines
from .seams import split as split_polygon
from .writing import copy_images, object_parts, objects_by_image, write_text

_NAME_FILES = ('classes.txt', 'obj.names', '_darknet.labels', 'class.names', 'labels.txt', 'names.txt')
_NO_LABELS = {*_NAME_FILES, 'train.txt', 'val.txt', 'valid.txt', 'test.txt', 'readme.txt'}
_ROBOFLOW = '../valid/images'  # which its files name even if there is none
_VISIBLE = 1e-3  # pixels by which boxes may differ
_FLAGS = ('difficult', 'truncated', 'occluded', 'ignore')
_ROUNDING = 0.01  # by how much a fraction may exceed 0 to 1, as in Ultralytics' reader
_VISIBILITIES = {0.0, 1.0, 2.0}  # of keypoints
_TRIED = 20  # label files by which a format is recognised
_REMEDY = 'correct the line, or remove it'


class _Fault(Exception):
    """What is wrong with a line: the kind of problem, and a message."""


def find(root: Path) -> Iterator[Layout]:
    """Recognise YOLO datasets: a ``data.yaml``, Darknet's ``obj.data``, or folders of images and labels.

    Args:
        root: A folder, or the ``data.yaml``.

    Raises:
        UserError: A ``data.yaml`` is invalid or names folders that do not exist.
    """
    if root.is_file():
        files = [root] if root.suffix.lower() in ('.yaml', '.yml') else []
    else:
        named = child(root, 'data.yaml', 'data.yml', 'dataset.yaml')
        files = [named] if named else sorted([*root.glob('*.yaml'), *root.glob('*.yml')])
    layouts = [layout for file in files if (layout := _from_yaml(file))]
    if not layouts and root.is_dir():
        layouts = [_from_darknet(root) or _from_folders(root)]
    yield from filter(None, layouts)


def _from_yaml(path: Path) -> Layout | None:
    """The layout in a ``data.yaml``; None if the file is about something else."""
    try:
        # all values as text: a class may be called "no" or 1e3
        content = yaml.load(read_text(path), yaml.BaseLoader)
    except yaml.YAMLError as error:
        if path.stem.lower() not in ('data', 'dataset'):
            return None
        mark = getattr(error, 'problem_mark', None)
        line = f', line {mark.line + 1}' if mark else ''
        raise UserError(f'{path}{line} is not valid YAML: {getattr(error, "problem", error)}') from error
    if not isinstance(content, dict) or not {'names', 'nc'} & set(content) or not set(SPLITS) & set(content):
        return None
    if 'kpt_shape' in content:
        raise UserError(f'{path} has keypoints (kpt_shape); only boxes and polygons are read')
    folder = path.parent
    given = content.get('path') or ''
    root = next((r for r in (folder / given, folder / Path(given).name) if r.is_dir()), folder)
    splits = {}
    for name in SPLITS:
        value = content.get(name) or content.get('valid' if name == 'val' else name)
        parts = [part for part in (value if isinstance(value, list) else [value]) if part]
        sources = [_locate(str(part), (root, folder)) for part in parts]
        if None in sources and name != 'test' and parts[0] != _ROBOFLOW:
            missing = parts[sources.index(None)]
            raise UserError(f'{path}: {name} is "{missing}", which is neither in {root} nor in {folder}')
        if sources and None not in sources:
            splits[name] = _split(tuple(sources), root)
    return Layout('yolo', f'YOLO ({path.name})', folder, splits, _yaml_classes(path, content))


def _split(sources: tuple[Path, ...], root: Path) -> Split:
    return Split(sources[0] if len(sources) == 1 and sources[0].is_dir() else root, sources)


def _yaml_classes(path: Path, content: Mapping[str, Any]) -> tuple[str, ...]:
    names, count = content.get('names'), content.get('nc')
    if names and not isinstance(names, list | dict):
        raise UserError(f'{path}: names is {names!r:.60}; give a list of class names')
    if count and not str(count).isdecimal():
        raise UserError(f'{path}: nc is {count!r:.60}; give the number of classes')
    if not names:
        names = [f'class {i}' for i in range(int(count or 0))]
    if isinstance(names, dict):
        expected = [str(i) for i in range(len(names))]
        if set(names) != set(expected):
            wrong = next(key for key in names if key not in expected)
            raise UserError(f'{path}: names has the key {wrong!r:.60}; number {len(names)} classes from 0')
        names = [names[key] for key in expected]
    names = [clean(name) if isinstance(name, str) else '' for name in names]
    wrong = next((n for i, n in enumerate(names) if not n or n in names[:i]), None) if names else ''
    if wrong is not None:
        raise UserError(f'{path}: names {f"repeats {wrong!r}" if wrong else "has no name for a class"}')
    if count and int(count) != len(names):
        raise UserError(f'{path}: nc is {count}, but names has {len(names)} classes; correct one of them')
    return tuple(names)


def _locate(name: str, folders: Sequence[Path]) -> Path | None:
    """Find a file or folder by its path, or by the end of its path.

    Roboflow writes ``../train/images`` for ``train/images``; other tools write the paths of their machine.
    """
    path = PurePosixPath(name.replace('\\', '/'))
    parts = [part for part in path.parts if part not in ('.', '..', '/')]
    ends = [parts[i:] for i in range(len(parts)) if i == 0 or parts[i:] != ['images']]
    # another dataset may be at ../train/images
    paths = [Path(*parts), path] if path.parts[:1] == ('..',) else [path]
    candidates = [folder / path for path in (*paths, *(Path(*end) for end in ends)) for folder in folders]
    return next((c for c in candidates if c.exists()), None)


def _from_darknet(root: Path) -> Layout | None:
    """The layout in Darknet's ``obj.data``, which CVAT writes too."""
    file = child(root, 'obj.data')
    if file is None:
        return None
    lines = (line.partition('=') for line in read_text(file).splitlines())
    given = {key.strip(): value.strip() for key, equals, value in lines if equals}
    splits = {}
    for name, key in (('train', 'train'), ('val', 'valid'), ('test', 'test')):
        source = _locate(given[key], (root,)) if given.get(key) else None
        if source:
            splits[name] = _split((source,), root)
    names = _locate(given['names'], (root,)) if given.get('names') else None
    classes = read_names(names) if names else _names_in([root])
    return Layout('yolo', 'YOLO (Darknet)', root, splits, classes) if splits else None


def _from_folders(root: Path) -> Layout | None:
    """The layout of folders without a file that describes them."""
    images = folder_in(root, 'images')
    splits = {}
    for name in SPLITS:
        words = (*SPLITS[name], f'{name}2017')  # as in Ultralytics' copies of COCO
        own = folder_in(root, *words)
        candidates = (
            images and folder_in(images, *words),
            own and folder_in(own, 'images'),
            own,
        )
        if folder := next((c for c in candidates if c and _has_labels(c)), None):
            splits[name] = Split(folder, (folder,))
    if not splits:
        folder = next((c for c in (images, root) if c and _has_labels(c)), None)
        if folder is None:
            return None
        for name, words in SPLITS.items():
            if listed := child(root, *(f'{word}.txt' for word in words)):
                splits[name] = Split(root, (listed,))
        splits = splits if 'train' in splits else {'train': Split(folder, (folder,))}
    folders = [part.images for part in splits.values()]
    classes = _names_in([root, *folders, *(labels_of(f) for f in folders), *(f.parent for f in folders)])
    return Layout('yolo', 'YOLO (images and text files)', root, splits, classes)


def _names_in(folders: Sequence[Path]) -> tuple[str, ...] | None:
    """The class names in the text files of folders."""
    files = [file for folder in dict.fromkeys(folders) if (file := child(folder, *_NAME_FILES))]
    names = {file: read_names(file) for file in files}
    for file in files:
        if names[file] != names[files[0]]:
            raise UserError(f'{files[0]} and {file} name different classes; remove one of them')
    return names[files[0]] if files else None


def _has_labels(images: Path) -> bool:
    """Whether a folder of images has label files, as far as the first of them show."""
    labels = labels_of(images)
    files = (path for path in _walk(labels) if path.name.lower() not in _NO_LABELS)
    texts = [path for path in islice(files, 10 * _TRIED) if path.suffix.lower() == '.txt'][:_TRIED]
    if labels == images:  # text files beside images can be anything
        texts = [path for path in texts if any(path.with_suffix(s).is_file() for s in _image_suffixes())]
        if texts and child(images, *_NAME_FILES):
            return True
    contents = [lines[0].split() for path in texts if (lines := read_text(path).split('\n', 1))[0].strip()]
    if not contents:
        return bool(texts) and labels != images
    good = sum(len(words) >= 5 and all(map(_is_number, words)) for words in contents)
    return 2 * good > len(contents)  # the others may be broken


def _image_suffixes() -> Iterator[str]:
    yield from SUFFIXES
    yield from (suffix.upper() for suffix in SUFFIXES)


def _walk(folder: Path) -> Iterator[Path]:
    """The files in a folder, and those in its subfolders after them."""
    folders = [folder]
    for parent in folders:
        for path in map(parent.joinpath, names_in(parent)):
            if path.is_dir():
                folders.append(path)
            else:
                yield path


def _is_number(word: str) -> bool:
    try:
        return math.isfinite(float(word))
    except ValueError:
        return False


def labels_of(images: Path) -> Path:
    """The folder of the labels of a folder of images, which may be the same."""
    parts = images.parts
    for i in reversed(range(len(parts))):
        if parts[i].lower() in ('images', 'jpegimages'):
            above = Path(*parts[:i])
            if labels := folder_in(above, 'labels'):
                return labels.joinpath(*parts[i + 1 :])
    return images


def class_names(layout: Layout) -> tuple[str, ...]:
    """The classes of all splits; without names, they are called ``class 0`` and so on.

    Raises:
        UserError: A list of images cannot be read.
    """
    if layout.classes:
        return layout.classes
    largest = -1
    for split in layout.splits.values():
        for _, file in _pairs(split, lambda problem: None):
            for line in read_text(file).splitlines() if file.is_file() else ():
                word = line.split()[0] if line.strip() else ''
                largest = max(largest, int(word) if word.isdecimal() and len(word) < 5 else -1)
    return tuple(f'class {i}' for i in range(largest + 1))


@uncollected()
def read(layout: Layout, split: str, report: Report, ignore_exif: bool = False) -> Content:
    """Read a split as COCO content.

    Args:
        layout: From :func:`find`.
        split: The name of the split.
        report: Called with each problem; lines with a fatal one are left out.
        ignore_exif: Whether the run loads the stored pixels, without turning them.

    Raises:
        UserError: A file cannot be read.
    """
    source = layout.splits[split]
    pairs = _pairs(source, report)
    headers = read_headers([image for image, _ in pairs], ignore_exif)
    collection = Collection(source.images, class_names(layout), report)
    for (path, file), header in zip(pairs, headers, strict=True):
        image = collection.add_image(_relative(path, source.images), header)
        if image is None:
            continue
        if not file.is_file():
            report(Problem('images without a label file, read as images without objects', str(path), False))
            continue
        _read_labels(file, image, collection)
    return collection.content


def _relative(path: Path, folder: Path) -> str:
    try:
        return path.relative_to(folder).as_posix()
    except ValueError:  # another folder of a data.yaml
        return path.absolute().as_posix()


def listed_files(layout: Layout) -> Iterator[Path]:
    """The images that the lists of a dataset name, and their label files, as far as they exist.

    Raises:
        UserError: A list of images cannot be read.
    """
    for split in layout.splits.values():
        lists = tuple(source for source in split.source if source.is_file())
        for pair in _pairs(replace(split, source=lists), lambda problem: None):
            yield from filter(Path.is_file, pair)


def _pairs(split: Split, report: Report) -> list[tuple[Path, Path]]:
    """The images of a split with their label files, which need not exist."""
    images = {}
    for source in split.source:
        for path in image_files(source) if source.is_dir() else _listed(source, split.images, report):
            images[path] = None
    labels, forms = cache(labels_of), cache(_name_forms)
    pairs = []
    for path in images:
        folder, name = labels(path.parent), f'{path.stem}.txt'
        pairs.append((path, folder / (forms(folder).get(name) or forms(folder).get(clean(name), name))))
    _report_orphans(split, {file for _, file in pairs}, report)
    return pairs


def _name_forms(folder: Path) -> dict[str, str]:
    """The names in a folder, by themselves, and with each accent as one character: systems differ."""
    names = names_in(folder)
    return {clean(name): name for name in names} | {name: name for name in names}


def _report_orphans(split: Split, known: set[Path], report: Report) -> None:
    for source in split.source:
        for file in files_in(labels_of(source)) if source.is_dir() else ():
            is_label = file.suffix.lower() == '.txt' and file.name.lower() not in _NO_LABELS
            if is_label and file not in known:
                report(Problem('label files without an image, ignored', str(file), fatal=False))


def _listed(file: Path, root: Path, report: Report) -> Iterator[Path]:
    """The images in a list, one per line."""
    cut = None  # how many parts the paths of this list have too many
    for number, line in enumerate(read_text(file).splitlines(), start=1):
        name = line.strip().replace('\\', '/')
        if not name:
            continue
        parts = [part for part in PurePosixPath(name).parts if part not in ('.', '..', '/')]
        if cut is not None and (path := root.joinpath(*parts[cut:])).is_file():
            yield path
        elif (path := _locate(name, (root, file.parent))) and path.is_file():
            inside = path.relative_to(root).parts if path.is_relative_to(root) else None
            cut = None if inside is None or '..' in inside else len(parts) - len(inside)
            yield path
        else:
            what = f'{file}, line {number}: {name} is neither in {root} nor in {file.parent}'
            report(Problem('listed images that do not exist', what))


def _read_labels(file: Path, image: Record, collection: Collection) -> None:
    """Add the objects in a label file to its image."""
    seen: dict[tuple, int] = {}
    lines = [line.split() for line in read_text(file).splitlines()]
    flagged = _have_flags([words for words in lines if words])
    for number, words in enumerate(lines, start=1):
        if not words:
            continue
        where = f'{file}, line {number}'
        try:
            label, *values = _parse(words, len(collection.classes), flagged)
        except _Fault as fault:
            kind, what = fault.args
            collection.report(Problem(kind, f'{where}: {what}', remedy=_REMEDY))
            continue
        first = seen.setdefault((label, *values), number)
        if first != number:
            what = f'{where} repeats line {first}'
            collection.report(Problem('repeated lines, left out', what, fatal=False))
            continue
        over = max(-min(values), max(values) - 1)
        if over > 0:
            what = f'{where} has {min(values) if min(values) < 0 else max(values)}'
            collection.report(Problem('fractions that are slightly outside 0 to 1', what, fatal=False))
        _add(lambda where=where: where, image, collection.classes[int(label)], values, collection)


def _parse(words: Sequence[str], classes: int, flagged: bool) -> list[float]:
    """The class and the numbers of a line; ``flagged`` is from :func:`_have_flags`."""
    try:
        label, *values = numbers = [float(word) for word in words]
    except ValueError:
        wrong = next(word for word in words if not _is_number(word))
        raise _Fault('label lines that are not numbers', f'"{wrong:.60}" is not a number') from None
    if not math.isfinite(sum(numbers)):
        raise _Fault('label lines that are not numbers', 'a number is NaN or infinite')
    if not label.is_integer() or not 0 <= label < classes:
        last = f'the last of {classes} is {classes - 1}' if classes else 'there are none'
        raise _Fault('classes out of range', f'there is no class {words[0]:.20}; {last}')
    count = len(values)
    if (count != 4 and (count < 6 or count % 2)) or _has_keypoints(values, flagged):
        what = 'a class and 4 (a box) or 6, 8, 10, … (a polygon)'
        hint = 'keypoints and confidences are not read' if count > 4 else 'is the line complete?'
        raise _Fault('label lines of another length', f'{len(words)} numbers instead of {what}; {hint}')
    lowest = [-_ROUNDING, -_ROUNDING, 0, 0] if count == 4 else [-_ROUNDING] * count
    wrong = next((v for v, low in zip(values, lowest, strict=True) if not low <= v <= 1 + _ROUNDING), None)
    if wrong is not None:
        what = f'{wrong:g} is not a fraction of the image; write all coordinates as numbers from 0 to 1'
        raise _Fault('coordinates that are no fractions', what)
    return numbers


def _have_flags(lines: Sequence[Sequence[str]]) -> bool:
    """Whether lines have the same length, and only numbers that may be visibilities where those would be."""
    flags = {word for words in lines for word in words[7::3]}
    return len(set(map(len, lines))) == 1 and all(_is_number(f) and float(f) in _VISIBILITIES for f in flags)


def _has_keypoints(values: Sequence[float], flagged: bool) -> bool:
    """Whether numbers are a box and at least two points in it with a visibility each: 0, 1 or 2.

    A polygon along the edges of the image may have 0 and 1 at the same places, but seldom in all lines of its
    file, nor does it begin like a box in the image that has a visible point.
    """
    flags = set(values[6::3])
    if len(values) < 10 or (len(values) - 4) % 3 or not flags <= _VISIBILITIES:
        return False
    x, y, width, height = values[:4]
    over = max(width / 2 - x, height / 2 - y, x + width / 2 - 1, y + height / 2 - 1)
    if 2 not in flags and (not flagged or 1 not in flags or over > _ROUNDING):
        return False
    seen = [(u, v) for u, v, flag in zip(values[4::3], values[5::3], values[6::3], strict=True) if flag]
    return all(abs(u - x) <= width / 2 + 0.1 and abs(v - y) <= height / 2 + 0.1 for u, v in seen)


def _add(
    where: Callable[[], str], image: Record, name: str, values: Sequence[float], collection: Collection
) -> None:
    width, height = image['width'], image['height']
    if len(values) == 4:
        x, y, w, h = values
        box = [(x - w / 2) * width, (y - h / 2) * height, w * width, h * height]
        collection.add_object(where, image, name, box)
        return
    points = [(x * width, y * height) for x, y in zip(values[::2], values[1::2], strict=True)]
    parts = split_polygon(points)
    area = sum(map(polygon_area, parts))
    collection.add_object(where, image, name, box_around(points), list(map(flat, parts)), area)


def write(
    content: Content,
    images: Path,
    out: Path,
    split: str,
    report: Report,
    masks: bool = True,
    link: bool = False,
) -> None:
    """Write a split of COCO content, with copies of its images, and ``data.yaml`` for all splits so far.

    Masks become polygons: parts are joined, and run lengths are outlined along the edges of their pixels.
    Crowds are left out, since the format cannot mark them.

    Args:
        content: COCO content; the order of its categories is the order of the classes.
        images: The folder of its images.
        out: The folder to write ``images/SPLIT``, ``labels/SPLIT`` and ``data.yaml`` to.
        split: ``'train'``, ``'val'`` or ``'test'``.
        report: Called with what the format cannot express.
        masks: Whether to write polygons for objects that have masks, or the boxes of all objects.
        link: Make hard links of the images instead of copies.

    Raises:
        UserError: Files cannot be written.
    """
    objects = objects_by_image(content)
    names = copy_images(content, images, out / 'images' / split, report, link)
    labels = {category['id']: i for i, category in enumerate(content['categories'])}
    for image in content['images']:
        lines = _lines(image, objects[image['id']], labels, masks, report)
        text = ''.join(f'{line}\n' for line in lines)
        write_text((out / 'labels' / split / names[image['id']]).with_suffix('.txt'), text)
    write_text(out / 'data.yaml', _yaml(content, out))


def _lines(
    image: Record, objects: Sequence[Record], labels: Mapping[Any, int], masks: bool, report: Report
) -> Iterator[str]:
    """The lines of a label file."""
    size = image['width'], image['height']
    single = [annotation for annotation in objects if not annotation.get('iscrowd')]
    for annotation in objects:
        for kind in _losses(annotation, masks):
            what = f'annotation {annotation["id"]} in {image["file_name"]}'
            report(Problem(kind, what, fatal=False))
    polygons = [_outline(annotation, size) if masks else None for annotation in single]
    for annotation, polygon in zip(single, polygons, strict=True):
        left, top, width, height = annotation['bbox']
        right, bottom = left + width, top + height
        points = polygon or [(left, top), (right, top), (right, bottom), (left, bottom)]
        inside = [(min(max(x, 0), size[0]), min(max(y, 0), size[1])) for x, y in points]
        kinds = []
        if polygon and max(map(_distance, box_around(polygon), annotation['bbox'])) > _VISIBLE:
            kinds.append('boxes that are not those around their polygons, which replace them')
        if polygon is None and any(polygons):  # Ultralytics reads any other line of such a file as a polygon
            kinds.append('boxes beside polygons, written as rectangles')
        if outside := _is_outside(box_around(points), size):
            kinds = ['objects outside of their image, left out']
        elif max(map(_distance, chain(*points), chain(*inside))) > _VISIBLE:
            kinds.append('coordinates outside of their image, moved to its border')
        for kind in kinds:
            report(Problem(kind, f'annotation {annotation["id"]} in {image["file_name"]}', fatal=False))
        if outside:
            continue
        if not any(polygons):
            left, top, width, height = box_around(inside)
            inside = [(left + width / 2, top + height / 2), (width, height)]
        fractions = (number / side for point in inside for number, side in zip(point, size, strict=True))
        yield ' '.join([str(labels[annotation['category_id']]), *(f'{number:.10g}' for number in fractions)])


def _is_outside(box: Sequence[float], size: tuple[int, int]) -> bool:
    left, top, width, height = box
    return left >= size[0] or top >= size[1] or left + width <= 0 or top + height <= 0


def _distance(first: float, second: float) -> float:
    return abs(first - second)


def _losses(annotation: Mapping[str, Any], masks: bool) -> Iterator[str]:
    """What a line cannot express of an object."""
    if annotation.get('iscrowd'):
        yield 'crowds, which YOLO cannot mark, left out'
        return
    if lost := [flag for flag in _FLAGS if annotation.get(flag)]:
        yield f'flags, which YOLO does not have, left out ({", ".join(lost)})'
    shape = annotation.get('segmentation')
    if shape and not masks:
        yield 'masks, left out'
    elif isinstance(shape, dict):
        yield 'masks of run lengths, written as the polygons around their pixels'
    elif shape and len(shape) > 1:
        yield 'masks of several polygons, joined into one by seams'


def _outline(annotation: Mapping[str, Any], size: tuple[int, int]) -> Points | None:
    """The polygon of an object, its parts joined; None if it has none."""
    parts = object_parts(annotation, size)
    if isinstance(parts, list):
        return join(parts) if parts else None
    polygons = [] if parts is None else outlines(parts)
    return join(polygons) if polygons else None


def _yaml(content: Content, out: Path) -> str:
    splits = [name for name in SPLITS if (out / 'images' / name).is_dir()]
    lines = [f'{name}: images/{name}\n' for name in splits]
    # JSON's strings are YAML's
    names = [
        f'  {i}: {json.dumps(category["name"], ensure_ascii=False)}\n'
        for i, category in enumerate(content['categories'])
    ]
    return ''.join([*lines, 'names:\n', *names])
