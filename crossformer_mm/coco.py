"""Read a COCO annotation file and say, in one line, what is wrong with it.

The toolboxes take a file on trust: a category that is not listed, a missing field or a name that does
not match shows up hours later as a traceback from deep inside, or as an mAP of 0.
"""

import json
import math
import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from .errors import UserError

_FIELDS = {
    'images': ('id', 'file_name', 'height', 'width'),
    'annotations': ('id', 'image_id', 'category_id', 'bbox', 'area', 'iscrowd'),
    'categories': ('id', 'name'),
}


@dataclass(frozen=True)
class CocoFile:
    """What a run needs to know of an annotation file that was found sound."""

    path: Path
    classes: tuple[str, ...]
    """Category names in the file's own order, which is the order of the toolboxes' labels."""
    image_names: tuple[str, ...]
    """``file_name`` of every image, relative to the image folder."""
    annotations: int
    """How many objects there are."""


def read_coco(path: str | Path, masks: bool = True, objects: bool = True) -> CocoFile:
    """Read an annotation file and check all that a run relies on.

    Args:
        path: The JSON file.
        masks: Whether every annotation must have a ``segmentation``.
        objects: Whether there must be annotations: COCO's test-dev comes without.

    Returns:
        Its classes and images.

    Raises:
        UserError: The file is missing, is not JSON, or is not sound COCO; the message names the place.
    """
    path = Path(path)
    content = _load_json(path)
    given = [name for name in _FIELDS if name != 'annotations' or objects or content.get(name)]
    records = {'annotations': [], **{name: _records(path, content, name) for name in given}}
    image_ids = {image['id'] for image in records['images']}
    categories = {category['id']: category['name'] for category in records['categories']}
    for image in records['images']:
        _check_image(path, image)
    _check_names(path, list(categories.values()))
    for annotation in records['annotations']:
        _check_annotation(path, annotation, image_ids, categories, masks)
    return CocoFile(
        path=path,
        classes=tuple(categories.values()),
        image_names=tuple(image['file_name'] for image in records['images']),
        annotations=len(records['annotations']),
    )


def check_images(file: CocoFile, folder: str | Path) -> None:
    """Check that every image of ``file`` lies in ``folder``, by listing folders, not by opening files.

    Args:
        file: A file that :func:`read_coco` read.
        folder: What its image names are relative to.

    Raises:
        UserError: Images are missing; the message names the first and counts them.
    """
    folder = Path(folder)
    present = {parent: _names_in(folder / parent) for parent in {_parent(n) for n in file.image_names}}
    missing = [n for n in file.image_names if n.rpartition('/')[2] not in present[_parent(n)]]
    if missing:
        raise UserError(
            f'{folder / missing[0]} is listed in {file.path} and does not exist'
            f' ({len(missing)} of {len(file.image_names)} images are missing);'
            ' name the right folder with --data-root, --train-images or --val-images'
        )


def _load_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise UserError(f'{path}: no such annotation file') from None
    except OSError as error:
        raise UserError(f'{path} cannot be read: {error.strerror}') from error
    except (ValueError, RecursionError) as error:
        raise UserError(f'{path} is not valid JSON ({error}); is the file whole?') from error
    if not isinstance(content, dict):
        _fail(path, f'a {type(content).__name__} at the top instead of images, annotations, …')
    return content


def _fail(path: Path, what: str) -> NoReturn:
    raise UserError(f'{path} is not a sound COCO annotation file: {what}')


def _records(path: Path, content: dict[str, Any], name: str) -> list[dict[str, Any]]:
    """One of the file's three lists, each of its records with the fields COCO gives it."""
    records = content.get(name)
    if not isinstance(records, list) or not records:
        hint = '; tools/test.py --format-only needs none' if name == 'annotations' else ''
        _fail(path, f'"{name}" is empty, missing or no list{hint}')
    for place, record in enumerate(records):
        if not isinstance(record, dict):
            _fail(path, f'{name}[{place}] is no record: {record!r:.60}')
        lacking = [field for field in _FIELDS[name] if field not in record]
        if lacking:
            _fail(path, f'{name}[{place}] has no "{lacking[0]}"')
        if not isinstance(record['id'], int | str):
            _fail(path, f'{name}[{place}] has the id {record["id"]!r:.60}')
    twice = _first_repeated(record['id'] for record in records)
    if twice is not None:
        _fail(path, f'the id {twice} occurs more than once in "{name}"')
    return records


def _first_repeated(values: Iterable[Any]) -> Any | None:
    return next((value for value, count in Counter(values).items() if count > 1), None)


def _check_image(path: Path, image: dict[str, Any]) -> None:
    if not isinstance(image['file_name'], str) or not image['file_name']:
        _fail(path, f'image {image["id"]} has the file_name {image["file_name"]!r:.60}')
    for side in ('height', 'width'):
        if not isinstance(image[side], int) or image[side] < 1:
            _fail(path, f'image {image["id"]} has the {side} {image[side]!r:.60}')


def _check_names(path: Path, names: list[Any]) -> None:
    """Two categories of one name would count as one class and take two labels."""
    for name in names:
        if not isinstance(name, str) or not name:
            _fail(path, f'a category has the name {name!r:.60}')
    twice = _first_repeated(names)
    if twice is not None:
        _fail(path, f'two categories have the name "{twice}"')


def _check_annotation(
    path: Path,
    annotation: dict[str, Any],
    image_ids: set[int | str],
    categories: dict[int | str, str],
    masks: bool,
) -> None:
    where = f'annotation {annotation["id"]}'
    for field, listed, group in (
        ('image_id', image_ids, 'images'),
        ('category_id', categories, 'categories'),
    ):
        value = annotation[field]
        if not isinstance(value, int | str) or value not in listed:
            _fail(path, f'{where} has the {field} {value!r:.60}, which "{group}" does not list')
    box = annotation['bbox']
    if not isinstance(box, list) or len(box) != 4 or not all(map(_is_number, box)):
        _fail(path, f'{where} has the bbox {box!r:.80}; COCO writes [left, top, width, height]')
    if not _is_number(annotation['area']):
        _fail(path, f'{where} has the area {annotation["area"]!r:.60}')
    if masks and not isinstance(annotation.get('segmentation'), list | dict):
        _fail(path, f'{where} has no segmentation, which a network with a mask head learns from')


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _parent(name: str) -> str:
    return name.rpartition('/')[0]


def _names_in(folder: Path) -> set[str]:
    if not folder.is_dir():
        return set()
    with os.scandir(folder) as entries:
        return {entry.name for entry in entries}
