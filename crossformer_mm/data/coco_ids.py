"""Repair the ids of an annotation file, and the references to them.

pycocotools sorts ids, which fails for numbers beside text, and stores the ids of matched objects in an array
of floats, in which 0 means no match.
"""

from collections.abc import Iterator
from itertools import count

from .coco_values import Record, as_int, drop_records, is_key, records_of
from .problems import Repairs

ORIGINAL_ID = 'original_id'  # a repaired record's own id, which results keep
LARGEST_ID = 2**53  # floats are exact up to this number


def repair_ids(content: Record, note: Repairs) -> None:
    """Make the ids of images and of categories uniform, and number annotations that have no valid id.

    Args:
        content: The JSON object, changed in place.
        note: Called with each repair.
    """
    for name in ('images', 'categories'):
        _drop_repeated(content, name, note)
        _unify(records_of(content, name), name, note)
    annotations = records_of(content, 'annotations')
    for field, group in (('image_id', 'images'), ('category_id', 'categories')):
        known = {r['id'] for r in records_of(content, group) if is_key(r.get('id'))}
        for annotation in annotations:
            value = annotation.get(field)
            if type(value) not in (int, str) or value not in known:
                _repair_reference(annotation, field, known, note)
    _number(content, annotations, note)


def _drop_repeated(content: Record, name: str, note: Repairs) -> None:
    """Drop the second of two records of the same id and name, as in files that were merged."""
    key = 'file_name' if name == 'images' else 'name'
    seen, repeated = set(), set()
    for record in records_of(content, name):
        pair = repr((record.get('id'), record.get(key)))
        if pair in seen and 'id' in record:
            repeated.add(id(record))
            note(f'{name} listed twice with one id, read once', f'the id {record["id"]!r:.60}')
        seen.add(pair)
    drop_records(content, name, repeated)


def _unify(records: list[Record], name: str, note: Repairs) -> None:
    for record in records:
        if type(record.get('id')) is float and record['id'].is_integer():
            note(f'ids with decimals in "{name}", read as whole numbers', f'the id {record["id"]}')
            record['id'] = int(record['id'])
    ids = [record.get('id') for record in records]
    too_large = any(type(key) is int and abs(key) > LARGEST_ID for key in ids)
    kinds = set(map(type, ids))
    if kinds != {int, str} and not (kinds == {int} and too_large):
        return
    are_numbers = all(str(as_int(key)) == str(key) for key in ids)
    convert = as_int if are_numbers and not too_large else str
    if len({convert(record['id']) for record in records}) < len(records):
        return  # left to the check
    for record in records:
        new = convert(record['id'])
        if type(new) is not type(record['id']):
            kind = f'ids partly numbers, partly text, or too large in "{name}", read as one kind'
            note(kind, f'the id {record["id"]!r:.60} → {new!r:.60}')
            record[ORIGINAL_ID], record['id'] = record['id'], new


def _repair_reference(annotation: Record, field: str, known: set[int | str], note: Repairs) -> None:
    value = annotation.get(field)
    for other in (as_int(value), str(value)):
        if other in known:
            annotation[field] = other
            note(f'{field} of another type than the id, read as the same', f'{value!r:.60} for {other!r:.60}')
            return


def _number(content: Record, annotations: list[Record], note: Repairs) -> None:
    """Give each annotation its own id from 1 on, unless it has one; nothing refers to these ids."""
    first: dict[int, Record] = {}
    unnumbered, repeated = [], set()
    for annotation in annotations:
        key = annotation.get('id')
        if type(key) is not int or not 0 < abs(key) <= LARGEST_ID:
            unnumbered.append(annotation)
        elif first.setdefault(key, annotation) is annotation:
            pass
        elif annotation == first[key]:
            repeated.add(id(annotation))
            note('annotations listed twice with one id, read once', f'the id {key}')
        else:
            unnumbered.append(annotation)
    drop_records(content, 'annotations', repeated)
    free: Iterator[int] = (number for number in count(1) if number not in first)
    for annotation in unnumbered:
        old = annotation.get('id')
        annotation['id'] = next(free)
        note(
            'annotations without an id of their own above 0, numbered',
            f'the id {old!r:.60} → {annotation["id"]}',
        )
