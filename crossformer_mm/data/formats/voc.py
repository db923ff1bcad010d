"""Read and write Pascal VOC datasets: an XML file per image, with boxes.

Coordinates are numbers of pixels in VOC's definition, from 1, and the last pixel belongs to the box: a box
from 1 to the width covers the whole image. Many tools write the positions of edges instead, from 0 to the
width. :func:`_convention` finds which of both a dataset has.
"""

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple
from xml.etree import ElementTree
from xml.sax.saxutils import escape

from ...utils.files import files_in
from ..coco_json import Content, uncollected
from ..coco_values import Record, as_int, as_number
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
    child,
    clean,
    decode,
    first_files,
    flat,
    folder_in,
    names_in,
    polygon_area,
    read_bytes,
    read_headers,
    read_names,
    read_text,
    report_unlabelled,
)
from .writing import copy_images, objects_by_image, write_text

_NAME_FILES = ('classes.txt', 'labels.txt', 'predefined_classes.txt')
_ANNOTATIONS = ('Annotations', 'Annotation', 'annotations_voc', 'xml', 'xmls', 'labels')
_IMAGES = ('JPEGImages', 'images', 'image', 'imgs', 'img')
_OWN = 'crossformer_mm'  # the database in files that :func:`write` wrote
_CORNERS = ('xmin', 'ymin', 'xmax', 'ymax')
Corners = tuple[float, float, float, float]


class _Object(NamedTuple):
    """An object as in the file."""

    name: str
    corners: Corners
    polygon: Points
    flags: dict[str, int]
    index: int


@dataclass(frozen=True)
class _File:
    """An annotation file.

    Attributes:
        image: The ``filename`` in it.
        size: Height and width; None if they are missing or not above 0.
        database: The ``database`` in it.
    """

    path: Path
    image: str
    size: tuple[int, int] | None
    database: str
    objects: list[_Object]


class Convention(NamedTuple):
    """What the coordinates of boxes mean."""

    one_based: bool
    """Whether they are numbers of pixels from 1, or else positions of edges from 0."""
    why: str


class _Fault(Exception):
    """What is wrong with a file: the kind of problem, the line or None, and a message."""


def find(root: Path) -> Iterator[Layout]:
    """Recognise Pascal VOC datasets: ``Annotations``, ``JPEGImages``, ``ImageSets``; or XML beside images.

    Args:
        root: A folder; those of the challenge may be in ``VOCdevkit/VOC2012``.

    Raises:
        UserError: A file cannot be read.
    """
    devkit = folder_in(root, 'VOCdevkit') or root
    years = [devkit / name for name in names_in(devkit) if re.fullmatch(r'VOC\d{4}', name)]
    for folder in (root, *years):
        if splits := _listed_splits(folder) or _split_folders(folder) or _whole(folder):
            named = [root, folder, *(part for split in splits.values() for part in _folders(split))]
            files = [file for place in dict.fromkeys(named) if (file := child(place, *_NAME_FILES))]
            yield Layout('voc', 'Pascal VOC', folder, splits, read_names(files[0]) if files else None)


def _folders(split: Split) -> Iterator[Path]:
    yield split.images
    yield split.source[0]
    yield split.source[0].parent


def _listed_splits(root: Path) -> dict[str, Split]:
    """Splits in lists of names, as in ImageSets/Main/train.txt."""
    whole = _whole(root).get('train')
    if whole is None:
        return {}
    sets = folder_in(root, 'ImageSets')
    places = [place for place in (sets and folder_in(sets, 'Main'), sets, root) if place]
    for place in places:
        lists = {}
        for name, words in SPLITS.items():
            if own := child(place, *(f'{word}.txt' for word in words)):
                lists[name] = [own]
            elif place != root:  # a list per class, of all images
                lists[name] = sorted(path for word in words for path in place.glob(f'*_{word}.txt'))
        if not lists.get('train') and (both := child(place, 'trainval.txt')):
            lists['train'] = [both]
        if lists.get('train') or lists.get('val'):
            return {
                name: Split(whole.images, (*whole.source, *files)) for name, files in lists.items() if files
            }
    return {}


def _split_folders(root: Path) -> dict[str, Split]:
    """Splits in folders: train, train/Annotations and train/JPEGImages, Annotations/train, images/train."""
    splits = {}
    labels, images = folder_in(root, *_ANNOTATIONS), folder_in(root, *_IMAGES)
    for name, words in SPLITS.items():
        own = folder_in(root, *words)
        inner = labels and folder_in(labels, *words)
        beside = images and folder_in(images, *words)
        if own and (whole := _whole(own)):
            splits[name] = whole['train']
        elif inner and _has_annotations(inner):
            splits[name] = Split(beside or images or root, (inner,))
        elif beside and _has_annotations(beside):
            splits[name] = Split(beside, (beside,))
    return splits


def _whole(root: Path) -> dict[str, Split]:
    """A folder that is not split."""
    labels, images = folder_in(root, *_ANNOTATIONS), folder_in(root, *_IMAGES)
    candidates = [(labels, images or root), (images, images), (root, images or root)]
    for folder, place in candidates:
        if folder and _has_annotations(folder, 4 if folder == labels else 2):
            return {'train': Split(place, (folder,))}
    return {}


def _has_annotations(folder: Path, levels: int = 2) -> bool:
    """Whether a folder or the folders below have annotation files, as far as the first of them show."""
    starts = (decode(read_bytes(path)[:2000]) for path in first_files(folder, '.xml', levels))
    return any(re.search(r'<annotation[\s>]', start) for start in starts)


def _names(files: Sequence[_File]) -> tuple[str, ...]:
    return tuple(sorted({item.name for file in files for item in file.objects}))


def _parse_all(layout: Layout) -> dict[Path, _File | _Fault | None]:
    """The annotation files of all splits; None for XML files of another kind."""
    folders = dict.fromkeys(split.source[0] for split in layout.splits.values())
    parsed = {}
    for path in (path for folder in folders for path in files_in(folder) if path.suffix.lower() == '.xml'):
        try:
            parsed[path] = _parse(path, read_bytes(path))
        except _Fault as fault:
            parsed[path] = fault
    return parsed


def _files(parsed: Mapping[Path, _File | _Fault | None]) -> list[_File]:
    return [file for file in parsed.values() if isinstance(file, _File)]


def _convention(files: Sequence[_File]) -> Convention:
    """Find what the coordinates of a dataset's boxes mean, from all splits together."""
    corners = [item.corners for file in files for item in file.objects]
    low = next((c for c in corners if min(c) < 1), None)
    broken = sum(any(not side.is_integer() for side in c) for c in corners)
    if any(file.database == _OWN for file in files):
        return Convention(True, f'the files say that {_OWN} wrote them')
    if low:
        return Convention(False, f'there are coordinates below 1, such as {min(low):g}')
    if 2 * broken > len(corners):
        return Convention(False, f'{broken} of {len(corners)} boxes have decimals, unlike numbers of pixels')
    return Convention(True, "VOC's definition; no coordinate is below 1, and most are whole numbers")


@uncollected()
def read(layout: Layout, split: str, report: Report, ignore_exif: bool = False) -> Content:
    """Read a split as COCO content.

    Args:
        layout: From :func:`find`.
        split: The name of the split.
        report: Called with each problem; files with a fatal one are left out. The convention of the boxes is
            reported too.
        ignore_exif: Whether the run loads the stored pixels, without turning them.

    Raises:
        UserError: A file or folder cannot be read.
    """
    source = layout.splits[split]
    parsed = _parse_all(layout)
    everything = _files(parsed)
    one_based, why = _convention(everything)
    how = 'numbers of pixels from 1' if one_based else 'positions of edges from 0'
    report(Problem(f"coordinates of VOC's boxes, read as {how}", why, fatal=False))
    paths = [path for path in parsed if path.is_relative_to(source.source[0])]
    files = list(_readable(_listed(paths, source, report) if source.source[1:] else paths, parsed, report))
    pairs = _with_images(files, ImageNames(source.images, source.source[0]), report)
    kind = 'images without an annotation file, left out'
    report_unlabelled(layout, split, {path for _, path in pairs}, kind, report)
    headers = read_headers([path for _, path in pairs], ignore_exif)
    collection = Collection(source.images, layout.classes or _names(everything), report)
    for (file, path), header in zip(pairs, headers, strict=True):
        reach = [max((item.corners[i] for item in file.objects), default=0) for i in (2, 3)]
        name = path.relative_to(source.images).as_posix()
        image = collection.add_image(name, header, file.size, tuple(reach))
        for item in file.objects if image else ():
            _add(file, item, image, one_based, collection)
    return collection.content


def _listed(files: Sequence[Path], split: Split, report: Report) -> list[Path]:
    """The annotation files of the images in lists."""
    folder, *lists = split.source
    known = {path.relative_to(folder).with_suffix('').as_posix(): path for path in files}
    chosen = {}
    for file in lists:
        for number, line in enumerate(read_text(file).splitlines(), start=1):
            if not (name := line.strip()):
                continue
            short = re.sub(r'\s+-?[01]$', '', name)  # whether the class of the list is in the image
            candidates = [form for n in (name, short) for form in (n, re.sub(r'\.\w+$', '', n))]
            candidates += [PurePosixPath(form).name for form in candidates]
            path = next((known[c] for c in candidates if c in known), None)
            if path is None:
                what = f'{file}, line {number}: {folder / short}.xml does not exist'
                report(Problem('listed images without an annotation file', what))
            else:
                chosen[path] = None
    return list(chosen)


def _with_images(files: Sequence[_File], images: ImageNames, report: Report) -> list[tuple[_File, Path]]:
    """The annotation files with their images: those of the same name, or else those that they name."""
    pairs = []
    for file in files:
        own = name_form(PurePosixPath(file.image.replace('\\', '/')).name)
        found = images.by_stem.get(name_form(file.path.stem), [])
        best = [path for path in found if name_form(path.name) == own] or found
        best = images.near(best, file.path)
        if not found and len(images.by_name.get(own, ())) == 1:
            best = images.by_name[own]
        if not best:
            what = f'{file.path} (its filename is "{file.image:.80}")'
            report(Problem('annotation files without an image, ignored', what, fatal=False))
            continue
        if own and name_form(best[0].stem) not in (own, PurePosixPath(own).stem):
            what = f'{file.path} is read for {best[0].name}, its filename is "{file.image:.80}"'
            report(Problem('annotation files that name another image', what, fatal=False))
        pairs.append((file, best[0]))
    return pairs


def _readable(
    paths: Iterable[Path], parsed: Mapping[Path, _File | _Fault | None], report: Report
) -> Iterator[_File]:
    """The content of annotation files; broken ones are reported and left out."""
    for path in paths:
        file = parsed[path]
        if isinstance(file, _File):
            yield file
        elif file is None:
            report(Problem('XML files that are no VOC annotations, ignored', str(path), fatal=False))
        else:
            kind, line, what = file.args
            where = f'{path}, line {line}' if line else str(path)
            report(Problem(kind, f'{where}: {what}', remedy=CORRECT))


def _parse(path: Path, data: bytes) -> _File | None:
    """The content of an annotation file; None if it is another kind of file."""
    root = _xml(data)
    if root.tag != 'annotation':
        return None
    sides = [as_int((root.findtext(f'size/{side}') or '').strip()) or 0 for side in ('height', 'width')]
    return _File(
        path,
        (root.findtext('filename') or '').strip(),
        (sides[0], sides[1]) if min(sides) > 0 else None,
        (root.findtext('source/database') or '').strip(),
        [_object(item, i, data) for i, item in enumerate(root.findall('object'))],
    )


def _xml(data: bytes) -> ElementTree.Element:
    if b'<!ENTITY' in data.replace(b'\0', b'') or not data.strip():  # in UTF-16 too
        what = 'it is empty' if not data.strip() else 'it defines entities, which are not read'
        raise _Fault('invalid XML files', None, what)
    try:
        return ElementTree.fromstring(data)
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        text = re.sub(r'^\s*<\?xml.*?\?>', '', _decode_declared(data))  # an encoding that expat does not know
        try:
            return ElementTree.fromstring(text)
        except ElementTree.ParseError:
            position = getattr(error, 'position', (None,))
            raise _Fault('invalid XML files', position[0], f'{error}') from error


def _decode_declared(data: bytes) -> str:
    declared = re.match(rb'\s*<\?xml[^>]*encoding=["\']([\w.-]+)', data)
    try:
        return data.decode(declared[1].decode()) if declared else decode(data)
    except (LookupError, UnicodeDecodeError):
        return decode(data)


def _line(data: bytes, index: int) -> int:
    """The line of an object in a file."""
    starts = re.finditer(r'<object[\s>]', decode(data))
    match = next(islice(starts, index, None), None)
    return decode(data).count('\n', 0, match.start()) + 1 if match else 0


def _object(item: ElementTree.Element, index: int, data: bytes) -> _Object:
    name, box = clean(item.findtext('name') or ''), item.find('bndbox')
    if not name:
        raise _Fault('objects without a name', _line(data, index), 'the object has no name')
    if box is None:
        hint = '; rotated boxes are not read' if item.find('robndbox') is not None else ''
        raise _Fault('objects without a box', _line(data, index), f'"{name}" has no bndbox{hint}')
    texts = [(box.findtext(corner) or '').strip() for corner in _CORNERS]
    corners = [as_number(text) for text in texts]
    if None in corners:
        i = corners.index(None)
        what = f'{_CORNERS[i]} of "{name}" is "{texts[i]:.60}"'
        raise _Fault('coordinates that are no numbers', _line(data, index), what)
    left, top, right, bottom = corners
    flags = {flag: as_int(item.findtext(flag).strip()) for flag in FLAGS if item.findtext(flag)}
    flags = {flag: value for flag, value in flags.items() if value is not None}
    outline = item.find('polygon')
    polygon = _polygon(outline) if outline is not None else []
    return _Object(name, (left, top, right, bottom), polygon, flags, index)


def _polygon(outline: ElementTree.Element) -> Points:
    """The points x1, y1, x2, …, which Roboflow writes; none if some are missing."""
    values = {part.tag: as_number((part.text or '').strip()) for part in outline}
    points = [(values.get(f'x{i}'), values.get(f'y{i}')) for i in range(1, len(values) // 2 + 1)]
    return points if len(points) > 2 and all(None not in point for point in points) else []


def _add(file: _File, item: _Object, image: Record, one_based: bool, collection: Collection) -> None:
    def where() -> str:
        return f'{file.path}, line {_line(read_bytes(file.path), item.index)}'

    if item.name not in collection.classes:
        what = f'{where()}: "{item.name}" is none of the classes {", ".join(collection.classes):.200}'
        collection.report(Problem('objects of unknown classes', what))
        return
    left, top, right, bottom = item.corners
    if left > right or top > bottom:
        what = f'{where()}: "{item.name}" from {left:g}, {top:g} to {right:g}, {bottom:g}'
        collection.report(
            Problem('boxes whose corners are the wrong way round, exchanged', what, fatal=False)
        )
        left, right, top, bottom = min(left, right), max(left, right), min(top, bottom), max(top, bottom)
    first = int(one_based)
    box = [left - first, top - first, right - left + first, bottom - top + first]
    points = [(x - first, y - first) for x, y in item.polygon]
    mask = {'segmentation': [flat(points)], 'area': polygon_area(points)} if points else {}
    collection.add_object(where, image, item.name, box, **mask, **item.flags)


def write(content: Content, images: Path, out: Path, split: str, report: Report, link: bool = False) -> None:
    """Write a split of COCO content, with copies of its images.

    Coordinates are numbers of pixels from 1, as VOC defines them, with decimals if the boxes have them. The
    format has no masks, and crowds are marked as difficult.

    Args:
        content: COCO content; ``classes.txt`` keeps the order of its categories.
        images: The folder of its images.
        out: The folder to write ``Annotations``, ``JPEGImages``, ``ImageSets/Main/SPLIT.txt`` and
            ``classes.txt`` to.
        split: ``'train'``, ``'val'`` or ``'test'``.
        report: Called with what the format cannot express.
        link: Make hard links of the images instead of copies.

    Raises:
        UserError: Files cannot be written.
    """
    classes = {category['id']: category['name'] for category in content['categories']}
    objects = objects_by_image(content)
    for annotation in content['annotations']:
        if annotation.get('segmentation'):
            what = f'annotation {annotation["id"]}'
            report(Problem("masks, which VOC's format does not have, left out", what, fatal=False))
    names = copy_images(content, images, out / 'JPEGImages', report, link)
    for image in content['images']:
        name = names[image['id']]
        text = _file_text(image, name.as_posix(), objects[image['id']], classes)
        write_text((out / 'Annotations' / name).with_suffix('.xml'), text)
    stems = (names[image['id']].with_suffix('').as_posix() for image in content['images'])
    write_text(out / 'ImageSets' / 'Main' / f'{split}.txt', ''.join(f'{stem}\n' for stem in stems))
    write_text(out / 'classes.txt', ''.join(f'{name}\n' for name in classes.values()))


def _file_text(image: Record, name: str, objects: Sequence[Record], classes: Mapping[Any, str]) -> str:
    lines = [
        '<annotation>',
        f'  <filename>{escape(name)}</filename>',
        f'  <source><database>{_OWN}</database></source>',
        f'  <size><width>{image["width"]}</width><height>{image["height"]}</height><depth>3</depth></size>',
        '  <segmented>0</segmented>',
    ]
    for annotation in objects:
        left, top, width, height = annotation['bbox']
        corners = left + 1, top + 1, left + width, top + height
        flags = {flag: int(annotation.get(flag) or 0) for flag in FLAGS if flag in annotation}
        flags = {'truncated': 0, 'difficult': 0, **flags}
        if not flags.get('iscrowd'):
            flags.pop('iscrowd', None)
        else:
            flags['difficult'] = 1
        lines += [
            '  <object>',
            f'    <name>{escape(classes[annotation["category_id"]])}</name>',
            *(f'    <{flag}>{value}</{flag}>' for flag, value in flags.items()),
            '    <bndbox>',
            *(
                f'      <{key}>{_decimal(value)}</{key}>'
                for key, value in zip(_CORNERS, corners, strict=True)
            ),
            '    </bndbox>',
            '  </object>',
        ]
    return '\n'.join([*lines, '</annotation>', ''])


def _decimal(value: float) -> str:
    """A coordinate to a thousandth of what evaluation notices, without trailing zeros."""
    return f'{round(value, 5):.12g}' if math.isfinite(value) else '0'
