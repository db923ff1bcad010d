"""Check the records of an annotation file, one by one."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from .coco_boxes import box_problem
from .coco_ids import LARGEST_ID
from .coco_masks import mask_fault
from .coco_values import LONGEST_SIDE, Record, has_size, is_number, is_text
from .problems import Problem, Report

_FIELDS = {
    'images': ('id', 'file_name', 'height', 'width'),
    'categories': ('id', 'name'),
    'annotations': ('image_id', 'category_id', 'bbox'),  # the repair completes the others
}


def valid_records(
    content: Record, name: str, problems_of: Callable[[Record], Iterator[Problem]], report: Report
) -> list[Record]:
    """Report the problems of one of the file's three lists.

    Args:
        content: The JSON object.
        name: The list.
        problems_of: The problems of a record that has all fields.
        report: Called with each problem.

    Returns:
        The records without fatal problems.
    """
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
    if not _is_id(record['id']):
        return Problem(f'{name} without a usable id', f'{where} has the id {record["id"]!r:.60}')
    return None


def _is_id(value: Any) -> bool:
    return isinstance(value, str) or (type(value) is int and abs(value) <= LARGEST_ID)


def _id_problem(name: str, key: int | str, ids: set[int | str]) -> Problem | None:
    """The problem of a repeated id, if it is one; the id is added to ``ids``."""
    if key in ids:
        return Problem(f'{name} with a repeated id', f'the id {key!r:.60} occurs more than once in "{name}"')
    ids.add(key)
    return None


def check_kinds(records: list[Record], name: str, report: Report) -> None:
    """Report ids of two kinds, which the repair could not make uniform."""
    if len({type(record['id']) for record in records}) > 1:
        what = f'the ids in "{name}" are partly numbers, partly text, and equal if read as one of them'
        report(Problem('ids of two kinds', what))


def check_repeated(
    kind: str, name: str, field: str, records: list[Record], fatal: bool, report: Report
) -> None:
    """Report records with the same value of a field, as problems of a kind."""
    for value, count in Counter(record[field] for record in records).items():
        if count > 1:
            times = 'two' if count == 2 else count
            report(Problem(kind, f'{times} {name} have the {field} "{_truncate(value)}"', fatal))


def check_unused(categories: list[Record], annotations: list[Record], report: Report) -> None:
    """Report categories without annotations."""
    used = {annotation['category_id'] for annotation in annotations}
    for category in categories:
        if category['id'] not in used:
            what = f'no annotation has the category "{_truncate(category["name"])}"'
            report(Problem('categories without objects', what, fatal=False))


def _truncate(text: str) -> str:
    return f'{text!r:.80}'.strip('\'"')


def image_problems(image: Record) -> Iterator[Problem]:
    """Check an image that has all fields."""
    where = f'image {image["id"]!r:.60}'
    if not is_text(image['file_name']):
        yield Problem('images without a file name', f'{where} has the file_name {image["file_name"]!r:.60}')
    height, width = image['height'], image['width']
    for name, side in (('height', height), ('width', width)):
        if type(side) is not int or not 1 <= side <= LONGEST_SIDE:
            yield Problem('images without a size', f'{where} has the {name} {side!r:.60}')
            return
    if not has_size(image):
        yield Problem('images without a size', f'{where} has {width}×{height} pixels, more than OpenCV reads')


def category_problems(category: Record) -> Iterator[Problem]:
    """Check a category that has all fields."""
    if not is_text(category['name']):
        yield Problem('categories without a name', f'a category has the name {category["name"]!r:.60}')


def annotation_problems(
    annotation: Record, images: Mapping[int | str, Record], categories: set[int | str], masks: bool
) -> Iterator[Problem]:
    """Check an annotation that has all fields.

    Args:
        annotation: The record.
        images: The valid images by id.
        categories: The ids of the valid categories.
        masks: Whether a ``segmentation`` is needed.
    """
    where = f'annotation {annotation["id"]}'
    for field, known, group in (
        ('image_id', images, 'images'),
        ('category_id', categories, 'categories'),
    ):
        value = annotation[field]
        if not _is_id(value) or value not in known:
            what = f'{where} has the {field} {value!r:.60}, which "{group}" does not list'
            yield Problem(f'annotations of unknown {group}', what)
            return
    image = images[annotation['image_id']]
    if not is_number(annotation.get('area', 0)):  # without a box, it is still missing
        yield Problem('areas that are not numbers', f'{where} has the area {annotation["area"]!r:.60}')
        return
    if annotation['iscrowd'] not in (0, 1):
        yield Problem('iscrowd neither 0 nor 1', f'{where} has the iscrowd {annotation["iscrowd"]!r:.60}')
    if masks and (fault := mask_fault(annotation.get('segmentation'), image['height'], image['width'])):
        yield Problem('invalid masks', f'{where} has {fault}')
    if problem := box_problem(where, annotation, image):
        yield problem
