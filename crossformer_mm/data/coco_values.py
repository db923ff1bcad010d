"""The values in an annotation file's JSON, which can be anything."""

import math
from typing import Any

Record = dict[str, Any]

LONGEST_SIDE, MOST_PIXELS = 2**20, 2**30  # OpenCV's limits for an image
_LONGEST_NUMBER = 15  # digits


def records_of(content: Record, name: str) -> list[Record]:
    """The records in one of the file's lists; whatever else is in it is left to the check."""
    records = content.get(name)
    return [r for r in records if isinstance(r, dict)] if isinstance(records, list) else []


def drop_records(content: Record, name: str, dropped: set[int]) -> None:
    """Remove records from one of the file's lists.

    Args:
        content: The JSON object, changed in place.
        name: The list.
        dropped: Their ``id()``; without any, nothing changes.
    """
    if dropped:
        content[name] = [record for record in content[name] if id(record) not in dropped]


def is_key(value: Any) -> bool:
    """Whether a value can be looked up among ids."""
    return type(value) in (int, str)


def has_size(image: Record) -> bool:
    """Whether an image has a height and a width that OpenCV reads."""
    height, width = image.get('height'), image.get('width')
    if type(height) is not int or type(width) is not int:
        return False
    return min(height, width) >= 1 and max(height, width) <= LONGEST_SIDE and height * width <= MOST_PIXELS


def is_text(value: Any) -> bool:
    """Whether a value is a string that can be a file name and be logged: JSON allows unpaired surrogates."""
    if not isinstance(value, str) or not value or '\0' in value:
        return False
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def as_int(value: Any) -> int | None:
    """The whole number that a value is, with decimals or as text too; None if it is none."""
    if type(value) is int:
        return value
    if type(value) is float and value.is_integer():
        return int(value)
    if type(value) is str and value.isascii() and len(value) <= _LONGEST_NUMBER:
        whole, _, decimals = value.strip().partition('.')
        return int(whole) if whole.isdecimal() and not decimals.strip('0') else None
    return None


def as_number(value: Any) -> float | None:
    """The finite number that a value is, as text too; None if it is none."""
    try:
        number = float(value) if type(value) in (int, float, str) else math.nan
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def is_number(value: Any) -> bool:
    """Whether a value is a finite number (true and false are not)."""
    return numbers_fault([value]) is None


def is_box(value: Any) -> bool:
    """Whether a value is a list of four numbers, which may be infinite."""
    return type(value) is list and len(value) == 4 and {int, float}.issuperset(map(type, value))


def numbers_fault(values: list[Any]) -> str | None:
    """Describe why values are not all finite numbers; fast enough for all boxes and polygons of a file.

    Args:
        values: The values.

    Returns:
        The fault; None if all values are finite numbers and their sum is finite.
    """
    if not {int, float}.issuperset(map(type, values)):
        wrong = next(value for value in values if type(value) not in (int, float))
        return f'{wrong!r:.60}, which is not a number'
    try:
        finite = math.isfinite(sum(values))
    except OverflowError:
        finite = False
    return None if finite else 'a number that is NaN or too large'
