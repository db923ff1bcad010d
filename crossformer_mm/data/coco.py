"""Read and check COCO annotation files.

The toolboxes do not check them: an unknown category, a missing field or a wrong name shows up hours later as
an obscure traceback, or as an mAP of 0. Training stops at the first fatal problem; ``crossformer check``
lists all problems, found by the same checks.
"""

import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..utils.errors import UserError
from .coco_masks import is_far, is_number, mask_fault, numbers_fault
from .problems import Problem

Record = dict[str, Any]
Report = Callable[[Problem], None]

_FIELDS = {
    'images': ('id', 'file_name', 'height', 'width'),
    'categories': ('id', 'name'),
    'annotations': ('id', 'image_id', 'category_id', 'bbox', 'area', 'iscrowd'),
}
_LARGEST_ID = 2**53  # pycocotools stores ids as floats, which are exact up to this number
_LONGEST_SIDE, _MOST_PIXELS = 2**20, 2**30  # OpenCV's limits for an image
_LEFT_OUT = 'objects that training leaves out'
_ROUNDING = 1.0  # pixels that a box may extend over the edge, as with coordinates that start at 1


@dataclass(frozen=True)
class CocoFile:
    """The valid records of an annotation file, as in its JSON."""

    path: Path
    images: list[Record]
    categories: list[Record]
    annotations: list[Record]

    @property
    def classes(self) -> tuple[str, ...]:
        """Category names in the file's order, which is the order of the toolboxes' labels."""
        return tuple(category['name'] for category in self.categories)

    @property
    def image_names(self) -> tuple[str, ...]:
        """The ``file_name`` of every image, relative to the image folder."""
        return tuple(image['file_name'] for image in self.images)

    @property
    def labelled(self) -> frozenset[str]:
        """The names of the categories that have objects."""
        used = {annotation['category_id'] for annotation in self.annotations}
        return frozenset(category['name'] for category in self.categories if category['id'] in used)


def read_coco(
    path: str | Path, masks: bool = True, objects: bool = True, report: Report | None = None
) -> CocoFile:
    """Read an annotation file and check everything that a run relies on.

    Args:
        path: The JSON file.
        masks: Whether every annotation must have a ``segmentation``.
        objects: Whether there must be annotations; COCO's test-dev has none.
        report: Called with each problem; by default, the first fatal one is raised.

    Returns:
        The records without fatal problems: all fields exist, have the right type, and refer to existing
        records.

    Raises:
        UserError: The file is missing or is not a JSON object; without ``report``, also if it is not a valid
            annotation file.
    """
    path = Path(path)

    def refuse(problem: Problem) -> None:
        if problem.fatal:
            raise UserError(f'{path} is not a valid COCO annotation file: {problem.what}')

    report = report or refuse
    content = _load_json(path)
    images = _valid_records(content, 'images', _image_problems, report)
    categories = _valid_records(content, 'categories', _category_problems, report)
    _check_repeated('categories of the same name', 'categories', 'name', categories, True, report)
    _check_repeated('images listed twice', 'images', 'file_name', images, False, report)
    if not objects and not content.get('annotations'):
        return CocoFile(path, images, categories, [])
    checks = _AnnotationChecks(images, categories, masks)
    annotations = _valid_records(content, 'annotations', checks.problems, report)
    if annotations and checks.left_out == len(annotations):
        what = f'none of the {len(annotations)} objects covers a part of its image'
        report(Problem('nothing to learn', what))
    _check_unused(categories, annotations, report)
    return CocoFile(path, images, categories, annotations)


def check_images(file: CocoFile, folder: str | Path) -> None:
    """Check that every image of ``file`` is in ``folder``, by listing folders, not by opening files.

    Args:
        file: From :func:`read_coco`.
        folder: The folder that its image names are relative to.

    Raises:
        UserError: Images are missing; the message has the first one and their number.
    """
    missing = missing_images(file.image_names, folder)
    if missing:
        raise UserError(
            f'{Path(folder, missing[0])} is listed in {file.path} but does not exist'
            f' ({len(missing)} of {len(file.images)} images are missing); check the image folder'
        )


def missing_images(names: Iterable[str], folder: str | Path) -> list[str]:
    """Find missing images by listing folders, not by opening files.

    Args:
        names: Paths relative to the folder.
        folder: The folder.

    Returns:
        The names of missing images, in order.

    Raises:
        UserError: A folder cannot be listed.
    """
    split = [(name, *name.rpartition('/')[::2]) for name in names]
    present = {parent: _list_folder(Path(folder, parent)) for parent in {parent for _, parent, _ in split}}
    return [name for name, parent, own in split if own not in present[parent]]


def _list_folder(folder: Path) -> set[str]:
    if not os.path.isdir(folder):  # noqa: PTH112 # accepts any name, unlike Path.is_dir
        return set()
    try:
        return set(os.listdir(folder))  # noqa: PTH208 # faster than Path objects for many files
    except OSError as error:
        raise UserError(f'{folder} cannot be listed: {error.strerror}') from error


def _load_json(path: Path) -> Record:
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise UserError(f'{path}: no such annotation file') from None
    except OSError as error:
        raise UserError(f'{path} cannot be read: {error.strerror}') from error
    except (ValueError, RecursionError) as error:
        raise UserError(f'{path} is not valid JSON ({error}); is the file complete?') from error
    if not isinstance(content, dict):
        raise UserError(
            f'{path} is not a valid COCO annotation file:'
            f' its top level is a {type(content).__name__} instead of an object with images, annotations, …'
        )
    return content


def _valid_records(
    content: Record, name: str, problems_of: Callable[[Record], Iterator[Problem]], report: Report
) -> list[Record]:
    """Report the problems of one of the file's three lists; returns its records without fatal problems."""
    records = content.get(name)
    if not isinstance(records, list) or not records:
        hint = '; only prediction without evaluation works without' if name == 'annotations' else ''
        report(Problem('no records', f'"{name}" is empty, missing or not a list{hint}'))
        return []
    valid, ids = [], set()
    for index, record in enumerate(records):
        problem = _form_problem(name, index, record) or _id_problem(name, record['id'], ids)
        problems = [problem] if problem else list(problems_of(record))
        for problem in problems:
            report(problem)
        if not any(problem.fatal for problem in problems):
            valid.append(record)
    return valid


def _form_problem(name: str, index: int, record: Any) -> Problem | None:
    where = f'{name}[{index}]'
    if not isinstance(record, dict):
        return Problem(f'invalid records in {name}', f'{where} is not an object: {record!r:.60}')
    missing = [field for field in _FIELDS[name] if field not in record]
    if missing:
        return Problem(f'{name} without a field', f'{where} has no "{missing[0]}"')
    key = record['id']
    # the evaluation stores annotation ids in arrays
    if not _is_id(key) or (name == 'annotations' and isinstance(key, str)):
        return Problem(f'{name} without a usable id', f'{where} has the id {key!r:.60}')
    return None


def _is_id(value: Any) -> bool:
    return isinstance(value, str) or (type(value) is int and abs(value) <= _LARGEST_ID)


def _id_problem(name: str, key: int | str, ids: set[int | str]) -> Problem | None:
    """The problem of a repeated id, if it is one; the id is added to ``ids``."""
    if key in ids:
        return Problem(f'{name} with a repeated id', f'the id {key!r:.60} occurs more than once in "{name}"')
    ids.add(key)
    return None


def _check_repeated(
    kind: str, name: str, field: str, records: list[Record], fatal: bool, report: Report
) -> None:
    for value, count in Counter(record[field] for record in records).items():
        if count > 1:
            times = 'two' if count == 2 else count
            report(Problem(kind, f'{times} {name} have the {field} "{_truncate(value)}"', fatal))


def _check_unused(categories: list[Record], annotations: list[Record], report: Report) -> None:
    used = {annotation['category_id'] for annotation in annotations}
    for category in categories:
        if category['id'] not in used:
            what = f'no annotation has the category "{_truncate(category["name"])}"'
            report(Problem('categories without objects', what, fatal=False))


def _truncate(text: str) -> str:
    return f'{text!r:.80}'.strip('\'"')


def _image_problems(image: Record) -> Iterator[Problem]:
    where = f'image {image["id"]!r:.60}'
    if not _is_text(image['file_name']):
        yield Problem('images without a file name', f'{where} has the file_name {image["file_name"]!r:.60}')
    height, width = image['height'], image['width']
    for name, side in (('height', height), ('width', width)):
        if type(side) is not int or not 1 <= side <= _LONGEST_SIDE:
            yield Problem('images without a size', f'{where} has the {name} {side!r:.60}')
            return
    if height * width > _MOST_PIXELS:
        yield Problem('images without a size', f'{where} has {width}×{height} pixels, more than OpenCV reads')


def _category_problems(category: Record) -> Iterator[Problem]:
    if not _is_text(category['name']):
        yield Problem('categories without a name', f'a category has the name {category["name"]!r:.60}')


def _is_text(value: Any) -> bool:
    """Whether a value is a string that can be a file name and be logged: JSON allows unpaired surrogates."""
    if not isinstance(value, str) or not value or '\0' in value:
        return False
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


class _AnnotationChecks:
    """Checks annotations against images and categories.

    Attributes:
        left_out: The number of objects so far that the toolboxes would leave out of training.
    """

    def __init__(self, images: list[Record], categories: list[Record], masks: bool) -> None:
        self.images = {image['id']: image for image in images}
        self.categories = {category['id'] for category in categories}
        self.masks = masks
        self.left_out = 0

    def problems(self, annotation: Record) -> Iterator[Problem]:
        where = f'annotation {annotation["id"]}'
        for field, known, group in (
            ('image_id', self.images, 'images'),
            ('category_id', self.categories, 'categories'),
        ):
            value = annotation[field]
            if not _is_id(value) or value not in known:
                what = f'{where} has the {field} {value!r:.60}, which "{group}" does not list'
                yield Problem(f'annotations of unknown {group}', what)
                return
        image = self.images[annotation['image_id']]
        if not is_number(annotation['area']):
            yield Problem('areas that are not numbers', f'{where} has the area {annotation["area"]!r:.60}')
            return
        if annotation['iscrowd'] not in (0, 1):
            yield Problem('iscrowd neither 0 nor 1', f'{where} has the iscrowd {annotation["iscrowd"]!r:.60}')
        fault = mask_fault(annotation.get('segmentation'), image['height'], image['width'])
        if self.masks and fault:
            yield Problem('invalid masks', f'{where} has {fault}')
        box_problem = _box_problem(where, annotation, image)
        if box_problem:
            self.left_out += box_problem.kind == _LEFT_OUT
            yield box_problem
        if annotation['id'] == 0:
            # pycocotools stores the id of the object that matches a prediction, or 0 for no match
            what = f'{where}: pycocotools never counts this object as detected'
            yield Problem('an id of 0', what, fatal=False)


def _box_problem(where: str, annotation: Record, image: Record) -> Problem | None:
    box = annotation['bbox']
    where = f'{where} has the bbox {box!r:.80}'
    if not isinstance(box, list) or len(box) != 4 or numbers_fault(box):
        return Problem('boxes that are not four numbers', f'{where}; COCO writes [left, top, width, height]')
    left, top, width, height = box
    if width < 0 or height < 0:
        return Problem('boxes of negative size', f'{where}; COCO writes [left, top, width, height]')
    right, bottom = left + width, top + height
    size = f'its image of {image["width"]}×{image["height"]}'
    if is_far(min(left, top), max(right, bottom), max(image['width'], image['height'])):
        return Problem('boxes far outside', f'{where}, far outside {size}')
    outside = right <= 0 or bottom <= 0 or left >= image['width'] or top >= image['height']
    if outside or width < 1 or height < 1 or annotation['area'] <= 0:
        why = f'outside {size}' if outside else f'and the area {annotation["area"]:g}: less than a pixel'
        return Problem(_LEFT_OUT, f'{where}, {why}', fatal=False)
    over = max(-left, -top, right - image['width'], bottom - image['height'])
    if over > _ROUNDING:
        return Problem('boxes that reach outside', f'{where}, {over:.4g} pixels over {size}', fatal=False)
    return None
