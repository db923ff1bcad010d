"""Read the label maps of a segmentation data set and say what would spoil a training.

The toolboxes take them on trust: a value outside the classes stops a GPU with an assertion, and classes that
are numbered otherwise than expected show up as an mIoU near 0.
"""

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import repeat
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..utils.errors import UserError
from ..utils.progress import progress_bar
from ..utils.text import printable, shorten
from .label_files import Pair, read_label_map, size_of
from .problems import Problem

IGNORED = 255  # what MMSegmentation's losses, metrics and padding leave out
MAPS_READ = 20_000  # of a larger set, evenly spaced ones
_WORTH_A_BAR = 1000  # maps; fewer are read within seconds
_LINES, _COLUMNS, _NAME = 20, 4, 18  # of the table
_OTHERS = 20  # values that are no class, in the table of the classes


@dataclass(frozen=True)
class LabelRule:
    """What the values of label maps mean.

    Attributes:
        classes: The names; a label is a place in them.
        reduce_zero_label: Whether 0 is ignored and the first class is 1.
        label_map: Labels that become others, after that; those that become ``IGNORED`` are left out.
    """

    classes: tuple[str, ...]
    reduce_zero_label: bool = False
    label_map: Mapping[int, int] = field(default_factory=dict)

    def label_of(self, value: int) -> int:
        """The label that MMSegmentation's ``LoadAnnotations`` makes of a value.

        Args:
            value: In a file.

        Returns:
            A class's place, ``IGNORED``, or a number that is neither.
        """
        if self.reduce_zero_label and value <= IGNORED:
            value = IGNORED if value in (0, IGNORED) else value - 1
        return self.label_map.get(value, value)

    def name_of(self, value: int) -> str | None:
        """What a value stands for.

        Args:
            value: In a file.

        Returns:
            The class's name, ``'ignored'``, or None if it is neither.
        """
        label = self.label_of(value)
        if label == IGNORED:
            return 'ignored'
        return self.classes[label] if self.is_class(value) else None

    def is_class(self, value: int) -> bool:
        """Whether a value stands for one of the classes.

        Args:
            value: In a file.
        """
        return 0 <= self.label_of(value) < len(self.classes)


@dataclass(frozen=True)
class LabelReport:
    """What was found in a folder of label maps.

    Attributes:
        folder: The folder.
        rule: What the values mean.
        maps: How many label maps there are.
        maps_read: How many of them were counted.
        pixels: How often each value occurs in those, in ascending order.
        maps_with: In how many of them it does.
        sound: The pairs that were read, are of one size and can be drawn, with that height and width.
        problems: What keeps a training from working.
        warnings: What is probably not meant.
    """

    folder: Path
    rule: LabelRule
    maps: int
    maps_read: int
    pixels: Mapping[int, int]
    maps_with: Mapping[int, int]
    sound: Mapping[Pair, tuple[int, int]]
    problems: Sequence[Problem]
    warnings: Sequence[Problem]

    def heading(self) -> str:
        """How much was read, and how.

        Returns:
            A line.
        """
        read = 'read' if self.maps_read == self.maps else f'{self.maps_read} evenly spaced ones read'
        zero = '0 is ignored (reduce_zero_label)' if self.rule.reduce_zero_label else '0 is the first class'
        return f'{self.folder}: {self.maps} label maps, {read}; {zero}'

    def summary(self) -> str:
        """How much was read, how, and a table of the values that occur.

        Returns:
            Several lines.
        """
        return f'{self.heading()}\n{value_table(self.pixels, self.rule)}'


class _Examined(NamedTuple):
    """What was found in one pair."""

    problems: list[Problem]
    counts: Mapping[int, int]
    size: tuple[int, int] | None
    """Of a sound pair whose map was read."""


def inspect_labels(
    pairs: Sequence[Pair], folder: str | Path, rule: LabelRule, maps_read: int | None = MAPS_READ
) -> LabelReport:
    """Compare images with label maps, and count the values that occur.

    Args:
        pairs: Images and their maps, which are there.
        folder: Where the maps are.
        rule: What their values mean.
        maps_read: How many maps are read at most, None for all; of the others, sizes alone are compared.

    Returns:
        What was found. A bar on stderr shows how far it is, if there are many.
    """
    step = max(1, -(-len(pairs) // maps_read)) if maps_read else 1
    pixels, maps_with = Counter(), Counter()
    sound: dict[Pair, tuple[int, int]] = {}
    problems: list[Problem] = []
    for pair, found in zip(pairs, _examine_all(pairs, rule, step), strict=True):
        problems += found.problems
        pixels.update(found.counts)
        maps_with.update(found.counts.keys())
        if found.size:
            sound[pair] = found.size
    return LabelReport(
        Path(folder),
        rule,
        maps=len(pairs),
        maps_read=len(pairs[::step]),
        pixels=dict(sorted(pixels.items())),
        maps_with=maps_with,
        sound=sound,
        problems=[*problems, *_indistinct(pixels, folder, rule)],
        warnings=list(_warnings(pixels, rule)) if pixels else [],
    )


def value_table(pixels: Mapping[int, int], rule: LabelRule) -> str:
    """Lay out which values occur, in several columns if there are many.

    Args:
        pixels: How often each value occurs.
        rule: What the values mean.

    Returns:
        Value, class and share of the pixels, under headings.
    """
    total = sum(pixels.values())
    heading = f'{"value":>5}  {"class":<{_NAME}}{"pixels":>9}'
    cells = [
        f'{value:>5}  {_fitted(rule.name_of(value) or "no class"):<{_NAME}}{count / total:>9.3%}'
        for value, count in pixels.items()
    ]
    columns = min(_COLUMNS, max(1, -(-len(cells) // _LINES)))
    height = -(-len(cells) // columns)
    rows = [[heading] * columns, *(cells[row::height] for row in range(height))]
    return '\n'.join('  '.join(row) for row in rows)


def class_table(report: LabelReport) -> str:
    """Lay out all classes and what else occurs, a line each.

    Args:
        report: What was found in a folder of label maps.

    Returns:
        Value, share of the pixels, number of maps and class, under headings.
    """
    rule, pixels = report.rule, report.pixels
    total = max(1, sum(pixels.values()))
    others = [value for value in pixels if rule.name_of(value) is None]
    values = {value for value in range(IGNORED + 1) if rule.is_class(value)} | pixels.keys()
    lines = [f'{"value":>7}{"pixels":>10}{"maps":>8}  class']
    for value in sorted(values - set(others[_OTHERS:])):
        name = printable(rule.name_of(value) or 'no class')
        share = pixels.get(value, 0) / total
        lines.append(f'{value:>7}{share:>10.3%}{report.maps_with[value]:>8}  {name}')
    if others[_OTHERS:]:
        lines.append(f'{"…":>7}{len(others) - _OTHERS:>18} more values that are no class')
    return '\n'.join(lines)


def _fitted(name: str) -> str:
    name = printable(name)
    return name if len(name) <= _NAME else f'{name[: _NAME - 1]}…'


def _examine_all(pairs: Sequence[Pair], rule: LabelRule, step: int) -> Iterator[_Examined]:
    """Files are decoded outside Python's lock, so that threads share the work."""
    pool = ThreadPoolExecutor(min(8, os.cpu_count() or 1))
    try:
        read = (place % step == 0 for place in range(len(pairs)))
        found = pool.map(_examine, pairs, repeat(rule), read)
        with progress_bar(disable=len(pairs) < _WORTH_A_BAR) as progress:
            yield from progress.track(found, total=len(pairs), description='check label maps')
    finally:  # after Ctrl-C, before all are read
        pool.shutdown(wait=False, cancel_futures=True)


def _examine(pair: Pair, rule: LabelRule, read: bool) -> _Examined:
    """A pair's problems, and how often each value occurs in its map."""
    image, label_map = pair
    try:
        values = read_label_map(label_map) if read else None
        map_size = size_of(label_map) if values is None else values.shape
    except UserError as error:
        return _Examined([Problem('label maps that cannot be used', str(error))], {}, None)
    counts = {} if values is None else _count(values)
    problems = list(_outside(label_map, counts, rule))
    try:
        image_size = size_of(image)
    except UserError as error:
        return _Examined([Problem('images that cannot be read', str(error)), *problems], counts, None)
    if image_size == map_size:
        return _Examined(problems, counts, map_size if read else None)
    sizes = [f'{width}×{height}' for height, width in (image_size, map_size)]
    what = f'{image} has {sizes[0]} pixels and its label map {label_map} {sizes[1]}; they must be of one size'
    return _Examined([Problem('label maps of another size', what), *problems], counts, None)


def _count(values: np.ndarray) -> dict[int, int]:
    if values.dtype == np.uint8:  # bincount needs no sorting
        counts = np.bincount(values.ravel())
        return {int(value): int(counts[value]) for value in np.flatnonzero(counts)}
    found, counts = np.unique(values, return_counts=True)
    return dict(zip(found.tolist(), counts.tolist(), strict=True))


def _outside(path: Path, counts: Mapping[int, int], rule: LabelRule) -> Iterator[Problem]:
    """The values of a map that are neither classes nor ignored."""
    values = [value for value in counts if rule.name_of(value) is None]
    if values:
        first = int(rule.reduce_zero_label)
        last = first + len(rule.classes) - 1
        held = f'the value {values[0]}, which is'
        if values[1:]:
            held = f'the values {shorten(map(str, values))}, which are'
        what = (
            f'{path} holds {held} none of the {len(rule.classes)} classes ({first} to {last}) and not ignored'
        )
        remedy = f'--ignore-label N ignores another value than {IGNORED}; {_causes(rule)}'
        yield Problem('label maps with values that are no class', what, remedy=remedy)


def _indistinct(pixels: Mapping[int, int], folder: str | Path, rule: LabelRule) -> Iterator[Problem]:
    """Whether the maps of a folder, all of whose values have a meaning, leave anything to tell apart."""
    if not pixels or any(rule.name_of(value) is None for value in pixels):
        return
    if any(map(rule.is_class, pixels)) and set(pixels) != {0, IGNORED}:
        return
    values = ' and '.join(map(str, sorted(pixels)))
    what = f'{folder}: the label maps hold {values} alone, which leaves no two classes to tell apart'
    yield Problem('nothing to tell apart', what, remedy=_causes(rule))


def _causes(rule: LabelRule) -> str:
    """The usual ones."""
    on, off = '--reduce-zero-label', '--no-reduce-zero-label'
    now = f'on here, {off} ends it' if rule.reduce_zero_label else f'off here, {on} sets it'
    return (
        'usual causes are masks of 0 and 255, where the classes are to be 0, 1, 2, …,'
        f' and a wrong reduce_zero_label (0 is unlabelled, the first class is 1: {now})'
    )


def _warnings(pixels: Mapping[int, int], rule: LabelRule) -> Iterator[Problem]:
    present = {rule.label_of(value) for value in pixels}
    ignored = [label for label in range(len(rule.classes)) if rule.label_map.get(label) == IGNORED]
    missing = [label for label in range(len(rule.classes)) if label not in {*present, *ignored}]
    for label in ignored:
        what = f'the class {printable(rule.classes[label])} is never learned: its value is the one to ignore'
        yield Problem('classes that are never learned', what, fatal=False)
    if missing:
        names = shorten((rule.classes[label] for label in missing), 6)
        what = f'{len(missing)} of {len(rule.classes)} classes never occur: {names}'
        yield Problem('classes that never occur', what, fatal=False)
    if rule.reduce_zero_label and 0 in pixels and len(rule.classes) - 1 in missing:
        what = (
            '0 is ignored and the last class never occurs: if 0 is a class here, give --no-reduce-zero-label'
        )
        yield Problem('reduce_zero_label may be wrong', what, fatal=False)
