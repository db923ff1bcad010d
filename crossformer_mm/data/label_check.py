"""Read the label maps of a segmentation data set and say what would spoil a training.

The toolboxes take them on trust: a value outside the classes stops a GPU with an assertion, and classes that
are numbered otherwise than expected show up as an mIoU near 0.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ..checkpoint.names import printable, shorten
from ..errors import UserError
from ..progress import progress_bar
from .label_files import SUFFIXES, Pair, read_label_map, size_of, unpaired

IGNORED = 255  # what MMSegmentation's losses, metrics and padding leave out
MAPS_READ = 20_000  # of a larger set, evenly spaced ones
_WORTH_A_BAR = 1000  # maps; fewer are read within seconds
_LINES, _COLUMNS, _NAME = 20, 4, 18  # of the table


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
        return self.classes[label] if 0 <= label < len(self.classes) else None


@dataclass(frozen=True)
class LabelReport:
    """What was found in a folder of label maps.

    Attributes:
        folder: The folder.
        rule: What the values mean.
        maps: How many label maps there are.
        maps_read: How many of them were counted.
        pixels: How often each value occurs in those, in ascending order.
        problems: What keeps a training from working, a line each.
        warnings: What is probably not meant, a line each.
    """

    folder: Path
    rule: LabelRule
    maps: int
    maps_read: int = 0
    pixels: Mapping[int, int] = field(default_factory=dict)
    problems: Sequence[str] = ()
    warnings: Sequence[str] = ()

    def summary(self) -> str:
        """How much was read, how, and a table of the values that occur.

        Returns:
            Several lines.
        """
        read = 'read' if self.maps_read == self.maps else f'{self.maps_read} evenly spaced ones read'
        zero = '0 is ignored (reduce_zero_label)' if self.rule.reduce_zero_label else '0 is the first class'
        return f'{self.folder}: {self.maps} label maps, {read}; {zero}\n{value_table(self.pixels, self.rule)}'


def inspect_labels(
    pairs: Sequence[Pair],
    folder: str | Path,
    rule: LabelRule,
    suffixes: str | tuple[str, ...] = SUFFIXES,
    maps_read: int = MAPS_READ,
) -> LabelReport:
    """Compare images with label maps, and count the values that occur.

    Args:
        pairs: Images and their maps.
        folder: Where the maps are.
        rule: What their values mean.
        suffixes: What their names end in.
        maps_read: How many maps are read at most; of the others, sizes alone are compared.

    Returns:
        What was found; where files lack partners, that alone. A bar on stderr shows how far it is, if there
        are many.
    """
    folder = Path(folder)
    if not pairs:
        return LabelReport(
            folder, rule, 0, problems=['there are no images for the label maps in ' + str(folder)]
        )
    if problems := unpaired(pairs, folder, suffixes):
        return LabelReport(folder, rule, len(pairs), problems=problems)
    step = -(-len(pairs) // maps_read)
    pixels: dict[int, int] = {}
    seen_in: dict[int, Path] = {}
    for (_, label_map), (problem, counts) in zip(pairs, _examine_all(pairs, step), strict=True):
        problems += [problem] if problem else []
        for value, count in counts.items():
            pixels[value] = pixels.get(value, 0) + count
            seen_in.setdefault(value, label_map)
    return LabelReport(
        folder,
        rule,
        maps=len(pairs),
        maps_read=len(pairs[::step]),
        pixels=dict(sorted(pixels.items())),
        problems=[*problems, *_value_problems(seen_in, rule)],
        warnings=list(_warnings(pixels, rule)),
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


def _fitted(name: str) -> str:
    name = printable(name)
    return name if len(name) <= _NAME else f'{name[: _NAME - 1]}…'


def _examine_all(pairs: Sequence[Pair], step: int) -> Iterator[tuple[str | None, dict[int, int]]]:
    """Files are decoded outside Python's lock, so that threads share the work."""
    pool = ThreadPoolExecutor(min(8, os.cpu_count() or 1))
    try:
        found = pool.map(_examine, pairs, (place % step == 0 for place in range(len(pairs))))
        with progress_bar(disable=len(pairs) < _WORTH_A_BAR) as progress:
            yield from progress.track(found, total=len(pairs), description='check label maps')
    finally:  # after Ctrl-C, before all are read
        pool.shutdown(wait=False, cancel_futures=True)


def _examine(pair: Pair, read: bool) -> tuple[str | None, dict[int, int]]:
    """A pair's problem, if any, and how often each value occurs in its map."""
    image, label_map = pair
    try:
        values = read_label_map(label_map) if read else None
        map_size = size_of(label_map) if values is None else values.shape
        image_size = size_of(image)
    except UserError as error:
        return str(error), {}
    counts = {} if values is None else _count(values)
    if image_size == map_size:
        return None, counts
    sizes = [f'{width}×{height}' for height, width in (image_size, map_size)]
    return (
        f'{image} has {sizes[0]} pixels and its label map {label_map} {sizes[1]}; they must be of one size',
        counts,
    )


def _count(values: np.ndarray) -> dict[int, int]:
    if values.dtype == np.uint8:  # bincount needs no sorting
        counts = np.bincount(values.ravel())
        return {int(value): int(counts[value]) for value in np.flatnonzero(counts)}
    found, counts = np.unique(values, return_counts=True)
    return dict(zip(found.tolist(), counts.tolist(), strict=True))


def _value_problems(seen_in: Mapping[int, Path], rule: LabelRule) -> Iterator[str]:
    """What the values that occur, each with the first map that has it, say of the whole set."""
    outside = [value for value in sorted(seen_in) if rule.name_of(value) is None]
    present = {rule.label_of(value) for value in seen_in} - {IGNORED}
    if outside:
        yield f'{seen_in[outside[0]]} holds {_list_outside(outside, rule)}; {_causes(rule)}'
    elif seen_in and (not present or set(seen_in) == {0, IGNORED}):
        values = ' and '.join(map(str, sorted(seen_in)))
        yield (
            f'{next(iter(seen_in.values())).parent}: the label maps hold {values} alone, which leaves no two'
            f' classes to tell apart; {_causes(rule)}'
        )


def _list_outside(values: Sequence[int], rule: LabelRule) -> str:
    first = int(rule.reduce_zero_label)
    last = first + len(rule.classes) - 1
    more = f'; the maps also hold {shorten(map(str, values[1:]))}' if values[1:] else ''
    return (
        f'the value {values[0]}, which is none of the {len(rule.classes)} classes ({first} to {last}) and not'
        f' ignored (--ignore-label N ignores another value than {IGNORED}){more}'
    )


def _causes(rule: LabelRule) -> str:
    """The usual ones."""
    on, off = '--reduce-zero-label', '--no-reduce-zero-label'
    now = f'on here, {off} ends it' if rule.reduce_zero_label else f'off here, {on} sets it'
    return (
        'usual causes are masks of 0 and 255, where the classes are to be 0, 1, 2, …,'
        f' and a wrong reduce_zero_label (0 is unlabelled, the first class is 1: {now})'
    )


def _warnings(pixels: Mapping[int, int], rule: LabelRule) -> Iterator[str]:
    present = {rule.label_of(value) for value in pixels}
    ignored = [label for label in range(len(rule.classes)) if rule.label_map.get(label) == IGNORED]
    missing = [label for label in range(len(rule.classes)) if label not in {*present, *ignored}]
    for label in ignored:
        yield f'the class {printable(rule.classes[label])} is never learned: its value is the one to ignore'
    if missing:
        names = shorten((rule.classes[label] for label in missing), 6)
        yield f'{len(missing)} of {len(rule.classes)} classes never occur: {names}'
    if rule.reduce_zero_label and 0 in pixels and len(rule.classes) - 1 in missing:
        yield (
            '0 is ignored and the last class never occurs: if 0 is a class here, give --no-reduce-zero-label'
        )
