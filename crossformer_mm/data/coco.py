"""Read a COCO annotation file and say, in one line, what is wrong with it.

The toolboxes take a file on trust: a category that is not listed, a missing field or a name that does
not match shows up hours later as a traceback from deep inside, or as an mAP of 0. Training stops at the
first fatal problem; ``tools/check_dataset.py`` lists all, from the same checks.
"""

import json
import os
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from ..utils.errors import UserError
from .coco_masks import is_far, is_number, mask_fault, numbers_fault
from .problems import Problem

Record = dict[str, Any]

_FIELDS = {
    'images': ('id', 'file_name', 'height', 'width'),
    'categories': ('id', 'name'),
    'annotations': ('id', 'image_id', 'category_id', 'bbox', 'area', 'iscrowd'),
}
_LARGEST_ID = 2**53  # pycocotools counts with floats, which tell integers apart up to there
_LONGEST_SIDE, _MOST_PIXELS = 2**20, 2**30  # of an image that OpenCV reads
_LEFT_OUT = 'objects that training leaves out'
_ROUNDING = 1.0  # pixels that a box may reach outside, as boxes do that count from 1


class Records(NamedTuple):
    """The sound records of an annotation file, as JSON has them."""

    images: list[Record]
    categories: list[Record]
    annotations: list[Record]


@dataclass(frozen=True)
class CocoFile:
    """What a run needs to know of an annotation file that was found sound."""

    path: Path
    classes: tuple[str, ...]
    """Category names in the file's own order, which is the order of the toolboxes' labels."""
    image_names: tuple[str, ...]
    """``file_name`` of every image, relative to the image folder."""
    labelled: frozenset[str]
    """The categories that have objects."""


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
    records = until_fatal(path, check_records(load_json(path), masks, objects))
    labelled = {annotation['category_id'] for annotation in records.annotations}
    return CocoFile(
        path=path,
        classes=tuple(category['name'] for category in records.categories),
        image_names=tuple(image['file_name'] for image in records.images),
        labelled=frozenset(c['name'] for c in records.categories if c['id'] in labelled),
    )


def until_fatal(path: Path, checks: Generator[Problem, None, Records]) -> Records:
    """Go through checks up to the first fatal problem.

    Args:
        path: The file, for the message.
        checks: What :func:`check_records` returned.

    Returns:
        The records, if there is none.

    Raises:
        UserError: The problem.
    """
    while True:
        try:
            problem = next(checks)
        except StopIteration as end:
            return end.value
        if problem.fatal:
            raise UserError(f'{path} is not a sound COCO annotation file: {problem.what}')


def check_images(file: CocoFile, folder: str | Path) -> None:
    """Check that every image of ``file`` lies in ``folder``, by listing folders, not by opening files.

    Args:
        file: A file that :func:`read_coco` read.
        folder: What its image names are relative to.

    Raises:
        UserError: Images are missing; the message names the first and counts them.
    """
    missing = missing_images(file.image_names, folder)
    if missing:
        raise UserError(
            f'{Path(folder, missing[0])} is listed in {file.path} and does not exist'
            f' ({len(missing)} of {len(file.image_names)} images are missing);'
            ' name the right folder with --data-root, --train-images or --val-images'
        )


def missing_images(names: Iterable[str], folder: str | Path) -> list[str]:
    """Look for images by listing folders, not by opening files.

    Args:
        names: Relative to the folder.
        folder: The folder.

    Returns:
        Those that are not there, in order.

    Raises:
        UserError: A folder cannot be listed.
    """
    names = list(names)
    present = {parent: _names_in(Path(folder, parent)) for parent in {_parent(name) for name in names}}
    return [name for name in names if name.rpartition('/')[2] not in present[_parent(name)]]


def load_json(path: Path) -> Record:
    """Read a JSON file.

    Args:
        path: The file.

    Returns:
        What is in it.

    Raises:
        UserError: It cannot be read, is not JSON, or has something else than named lists in it.
    """
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise UserError(f'{path}: no such annotation file') from None
    except OSError as error:
        raise UserError(f'{path} cannot be read: {error.strerror}') from error
    except (ValueError, RecursionError) as error:
        raise UserError(f'{path} is not valid JSON ({error}); is the file whole?') from error
    if not isinstance(content, dict):
        raise UserError(
            f'{path} is not a sound COCO annotation file:'
            f' a {type(content).__name__} at the top instead of images, annotations, …'
        )
    return content


def check_records(content: Record, masks: bool, objects: bool) -> Generator[Problem, None, Records]:
    """Check an annotation file.

    Args:
        content: The file's, from JSON.
        masks: Whether every annotation must have a ``segmentation``.
        objects: Whether there must be annotations.

    Yields:
        Its problems.

    Returns:
        What it holds without the fatal ones: each record has COCO's fields, of the right type, and refers to
        others that are there.
    """
    images = yield from _sound(content, 'images', _image_problems)
    categories = yield from _sound(content, 'categories', _category_problems)
    yield from _repeated('categories of one name', 'categories', 'name', categories)
    yield from _repeated('images listed twice', 'images', 'file_name', images, fatal=False)
    if not objects and not content.get('annotations'):
        return Records(images, categories, [])
    context = _Context({image['id']: image for image in images}, {c['id'] for c in categories}, masks)
    annotations = yield from _sound(content, 'annotations', context.problems)
    if annotations and context.left_out == len(annotations):
        yield Problem('nothing to learn', f'none of the {len(annotations)} objects has an area in its image')
    yield from _unused(categories, annotations)
    return Records(images, categories, annotations)


def _sound(
    content: Record, name: str, problems_of: Callable[[Record], Iterator[Problem]]
) -> Generator[Problem, None, list[Record]]:
    """One of the file's three lists, without the records that have a fatal problem."""
    records = content.get(name)
    if not isinstance(records, list) or not records:
        hint = '; testing with --format-only needs none' if name == 'annotations' else ''
        yield Problem('no records', f'"{name}" is empty, missing or no list{hint}')
        return []
    sound, ids = [], set()
    for place, record in enumerate(records):
        problem = _form_problem(name, place, record) or _id_problem(name, record['id'], ids)
        problems = [problem] if problem else list(problems_of(record))
        yield from problems
        if not any(problem.fatal for problem in problems):
            sound.append(record)
    return sound


def _form_problem(name: str, place: int, record: Any) -> Problem | None:
    where = f'{name}[{place}]'
    if not isinstance(record, dict):
        return Problem(f'no record in {name}', f'{where} is no record: {record!r:.60}')
    lacking = [field for field in _FIELDS[name] if field not in record]
    if lacking:
        return Problem(f'{name} without a field', f'{where} has no "{lacking[0]}"')
    key = record['id']
    # the evaluation writes objects' ids into arrays
    if not _is_id(key) or (name == 'annotations' and isinstance(key, str)):
        return Problem(f'{name} without a usable id', f'{where} has the id {key!r:.60}')
    return None


def _is_id(value: Any) -> bool:
    return isinstance(value, str) or (type(value) is int and abs(value) <= _LARGEST_ID)


def _id_problem(name: str, key: int | str, ids: set[int | str]) -> Problem | None:
    """Remembers the id in ``ids``."""
    if key in ids:
        return Problem(f'{name} of one id', f'the id {key!r:.60} occurs more than once in "{name}"')
    ids.add(key)
    return None


def _repeated(
    kind: str, name: str, field: str, records: list[Record], fatal: bool = True
) -> Iterator[Problem]:
    for value, count in Counter(record[field] for record in records).items():
        if count > 1:
            times = 'two' if count == 2 else count
            yield Problem(kind, f'{times} {name} have the {field} "{_cut(value)}"', fatal)


def _cut(text: str) -> str:
    return f'{text!r:.80}'.strip('\'"')


def _image_problems(image: Record) -> Iterator[Problem]:
    where = f'image {image["id"]!r:.60}'
    if not _is_text(image['file_name']):
        yield Problem('images without a file name', f'{where} has the file_name {image["file_name"]!r:.60}')
    sides = [image['height'], image['width']]
    for name, side in zip(('height', 'width'), sides, strict=True):
        if type(side) is not int or not 1 <= side <= _LONGEST_SIDE:
            yield Problem('images without a size', f'{where} has the {name} {side!r:.60}')
            return
    if sides[0] * sides[1] > _MOST_PIXELS:
        yield Problem('images without a size', f'{where} has {sides[1]}×{sides[0]} pixels, more than is read')


def _category_problems(category: Record) -> Iterator[Problem]:
    if not _is_text(category['name']):
        yield Problem('categories without a name', f'a category has the name {category["name"]!r:.60}')


def _is_text(value: Any) -> bool:
    """Text that a file can be named after and a log can hold: JSON knows halves of characters, too."""
    if not isinstance(value, str) or not value or '\0' in value:
        return False
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


class _Context:
    """What annotations are checked against.

    Attributes:
        left_out: How many objects so far the toolboxes would leave out of training.
    """

    def __init__(self, images: dict[int | str, Record], categories: set[int | str], masks: bool) -> None:
        self.images = images
        self.categories = categories
        self.masks = masks
        self.left_out = 0

    def problems(self, annotation: Record) -> Iterator[Problem]:
        where = f'annotation {annotation["id"]}'
        for field, listed, group in (
            ('image_id', self.images, 'images'),
            ('category_id', self.categories, 'categories'),
        ):
            value = annotation[field]
            if not _is_id(value) or value not in listed:
                unlisted = f'{where} has the {field} {value!r:.60}, which "{group}" does not list'
                yield Problem(f'annotations of unknown {group}', unlisted)
                return
        image = self.images[annotation['image_id']]
        if not is_number(annotation['area']):
            yield Problem('areas that are no numbers', f'{where} has the area {annotation["area"]!r:.60}')
            return
        if annotation['iscrowd'] not in (0, 1):
            yield Problem('iscrowd neither 0 nor 1', f'{where} has the iscrowd {annotation["iscrowd"]!r:.60}')
        fault = mask_fault(annotation.get('segmentation'), image['height'], image['width'])
        if self.masks and fault:
            yield Problem('broken masks', f'{where} has {fault}')
        box_problem = _box_problem(where, annotation, image)
        if box_problem:
            self.left_out += box_problem.kind == _LEFT_OUT
            yield box_problem
        if annotation['id'] == 0:
            # it stores the id of what a prediction matched, where 0 says nothing
            yield Problem(
                'an id of 0', f'{where}: pycocotools never counts this object as found', fatal=False
            )


def _box_problem(where: str, annotation: Record, image: Record) -> Problem | None:
    box = annotation['bbox']
    if not isinstance(box, list) or len(box) != 4 or numbers_fault(box):
        what = f'{where} has the bbox {box!r:.80}; COCO writes [left, top, width, height]'
        return Problem('boxes that are not four numbers', what)
    left, top, width, height = box
    where = f'{where} has the bbox {box!r:.80}'
    if width < 0 or height < 0:
        return Problem('boxes of negative size', f'{where}; COCO writes [left, top, width, height]')
    right, bottom = left + width, top + height
    size = f'its image of {image["width"]}×{image["height"]}'
    side = max(image['width'], image['height'])
    if is_far(min(left, top), max(right, bottom), side):
        return Problem('boxes far outside', f'{where}, far outside {size}')
    outside = right <= 0 or bottom <= 0 or left >= image['width'] or top >= image['height']
    if outside or width < 1 or height < 1 or annotation['area'] <= 0:
        why = f'outside {size}' if outside else f'and the area {annotation["area"]:g}: less than a pixel'
        return Problem(_LEFT_OUT, f'{where}, {why}', fatal=False)
    over = max(-left, -top, right - image['width'], bottom - image['height'])
    if over > _ROUNDING:
        return Problem('boxes that reach outside', f'{where}, {over:.4g} pixels over {size}', fatal=False)
    return None


def _unused(categories: list[Record], annotations: list[Record]) -> Iterator[Problem]:
    used = {annotation['category_id'] for annotation in annotations}
    for category in categories:
        if category['id'] not in used:
            what = f'no annotation has the category "{_cut(category["name"])}"'
            yield Problem('categories without objects', what, fatal=False)


def _parent(name: str) -> str:
    return name.rpartition('/')[0]


def _names_in(folder: Path) -> set[str]:
    if not os.path.isdir(folder):  # noqa: PTH112 # unlike Path's, it survives any name
        return set()
    try:
        with os.scandir(folder) as entries:
            return {entry.name for entry in entries}
    except OSError as error:
        raise UserError(f'{folder} cannot be listed: {error.strerror}') from error
