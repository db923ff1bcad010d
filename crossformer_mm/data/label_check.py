"""Check the label maps of a segmentation dataset before training.

The toolboxes do not check them: a value outside the classes causes a CUDA assertion, and classes that are
numbered differently than expected show up as an mIoU near 0.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..utils.errors import UserError
from ..utils.progress import map_in_threads
from ..utils.text import printable, shorten
from .images import REPLACE, NoImageError, image_header, quiet_decoders, spread, turning_advice
from .label_files import Pair, label_map_header, read_label_map
from .problems import Problem

IGNORED = 255  # the label that MMSegmentation's losses, metrics and padding ignore
MAPS_READ = 20_000  # of a larger set, only this many evenly spaced maps are read
_ROWS, _FEWEST_EDGES = 8, 50  # one row of so many is searched for edges, and so many say something
_ONE_CLASS = 0.8  # share of the numbers between two others from which they are a class of thin objects
_OTHERS = 20  # at most this many values outside the classes are listed in the table


@dataclass(frozen=True)
class LabelRule:
    """The meaning of the values in label maps.

    Attributes:
        classes: Class names in the order of labels.
        reduce_zero_label: Whether 0 is ignored and the first class is 1.
        label_map: Replacements of labels after that; labels that become :data:`IGNORED` are ignored.
    """

    classes: tuple[str, ...]
    reduce_zero_label: bool = False
    label_map: Mapping[int, int] = field(default_factory=dict)

    def label_of(self, value: int) -> int:
        """Convert a value in a file to a label, as MMSegmentation's ``LoadAnnotations`` does.

        Args:
            value: The value.

        Returns:
            The index of a class, :data:`IGNORED`, or a number outside the classes.
        """
        if self.reduce_zero_label and value <= IGNORED:
            value = IGNORED if value in (0, IGNORED) else value - 1
        return self.label_map.get(value, value)

    def is_class(self, value: int) -> bool:
        """Whether a value in a file stands for one of the classes."""
        return 0 <= self.label_of(value) < len(self.classes)

    def name_of(self, value: int) -> str | None:
        """The name of the class that a value stands for, ``'ignored'``, or None for other values."""
        label = self.label_of(value)
        if label == IGNORED:
            return 'ignored'
        return self.classes[label] if self.is_class(value) else None

    def labels_in(self, values: np.ndarray) -> np.ndarray:
        """Convert the values of a label map to labels, and all that are no class to their number.

        Args:
            values: ``(H, W)``.
        """
        found, indices = np.unique(values, return_inverse=True)
        labels = [self.label_of(int(v)) if self.is_class(int(v)) else len(self.classes) for v in found]
        return np.array(labels, np.uint16)[indices.reshape(values.shape)]


@dataclass(frozen=True)
class LabelReport:
    """The content of a folder of label maps.

    Attributes:
        folder: The folder.
        rule: The meaning of the values.
        maps: The number of label maps.
        maps_read: The number of label maps that were read.
        pixels: The number of pixels with each value in these maps, in ascending order of the values.
        maps_with: The number of these maps in which each value occurs.
        sound: The valid pairs: those that were read and have equal sizes, with their height and width.
        problems: Problems that stop a training.
        warnings: Probable mistakes.
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

    def summary(self) -> str:
        """Describe the maps in a table with one line per class and per other value that occurs.

        Returns:
            Several lines, with value, share of the pixels, number of maps and class.
        """
        rule = self.rule
        read = 'read' if self.maps_read == self.maps else f'{self.maps_read} evenly spaced ones read'
        zero = '0 is ignored (reduce_zero_label)' if rule.reduce_zero_label else '0 is the first class'
        lines = [f'{self.folder}: {self.maps} label maps, {read}; {zero}']
        lines.append(f'{"value":>7}{"pixels":>10}{"maps":>8}  class')
        total = max(1, sum(self.pixels.values()))
        others = [value for value in self.pixels if rule.name_of(value) is None]
        values = set(filter(rule.is_class, range(IGNORED + 1))) | self.pixels.keys()
        for value in sorted(values - set(others[_OTHERS:])):
            share, maps = self.pixels.get(value, 0) / total, self.maps_with.get(value, 0)
            name = printable(rule.name_of(value) or 'not a class')
            lines.append(f'{value:>7}{share:>10.3%}{maps:>8}  {name}')
        if others[_OTHERS:]:
            lines.append(f'{"…":>7}{len(others) - _OTHERS:>18} more values outside the classes')
        return '\n'.join(lines)


class _Examined(NamedTuple):
    """The findings for one pair."""

    problems: list[Problem]
    counts: Mapping[int, int] = {}
    """Pixels of each value, if the map was read."""
    size: tuple[int, int] | None = None
    """Height and width, if the map was read and the image has the same size."""
    turned: bool = False
    """Whether EXIF data of the map says to turn it."""
    clear: int = 0
    """Edges without a number between those of their sides."""
    between: Mapping[int, int] = {}
    """Pixels with such a number."""


def inspect_labels(
    pairs: Sequence[Pair],
    folder: str | Path,
    rule: LabelRule,
    maps_read: int | None = MAPS_READ,
    ignore_exif: bool = False,
) -> LabelReport:
    """Compare images with label maps, and count the values that occur, with a progress bar.

    Args:
        pairs: Existing images and label maps.
        folder: The folder of the maps.
        rule: The meaning of their values.
        maps_read: The largest number of maps to read; None for all. Only the sizes of the others are checked.
        ignore_exif: Whether images are loaded without being turned as their EXIF data says.

    Returns:
        The report.
    """
    pixels, maps_with = Counter(), Counter()
    sound: dict[Pair, tuple[int, int]] = {}
    problems: list[Problem] = []
    chosen = spread(range(len(pairs)), maps_read)
    read = [index in chosen for index in range(len(pairs))]
    turned: list[Path] = []
    clear, between = 0, Counter()
    examine = partial(_examine, rule=rule, ignore_exif=ignore_exif)
    with quiet_decoders():
        examined = map_in_threads(examine, pairs, read, description='check label maps')
        for pair, found in zip(pairs, examined, strict=True):
            problems += found.problems
            pixels.update(found.counts)
            maps_with.update(found.counts.keys())
            turned += [pair[1]] * found.turned
            clear += found.clear
            between.update(found.between)
            if found.size:
                sound[pair] = found.size
    return LabelReport(
        Path(folder),
        rule,
        maps=len(pairs),
        maps_read=sum(read),
        pixels=dict(sorted(pixels.items())),
        maps_with=maps_with,
        sound=sound,
        problems=[*problems, *_nothing_to_learn(pixels, folder, rule)],
        warnings=[*_warnings(pixels, rule), *_drawing_warnings(turned, clear, between)] if pixels else [],
    )


def _examine(pair: Pair, read: bool, rule: LabelRule, ignore_exif: bool) -> _Examined:
    image, label_map = pair
    try:
        header = label_map_header(label_map)
        values = read_label_map(label_map) if read else None
    except UserError as error:
        return _Examined([Problem('label maps that cannot be used', str(error))])
    counts = {} if values is None else _count(values)
    found = _Examined(
        list(_unknown_values(label_map, counts, rule)),
        counts,
        header[:2] if read else None,
        header.turned,
        *((0, {}) if values is None else _edges(values)),
    )
    try:
        size = image_header(image, ignore_exif)
    except NoImageError as error:
        problem = Problem('images that cannot be read', f'{image} {error}', remedy=REPLACE)
        return found._replace(problems=[problem, *found.problems], size=None)
    if size[:2] == header[:2]:
        return found
    sizes = [f'{width}×{height}' for height, width, _ in (size, header)]
    what = f'{image} has {sizes[0]} pixels and its label map {label_map} has {sizes[1]}; they must be equal'
    problem = Problem('label maps of another size', what + turning_advice(size, header[:2]))
    return found._replace(problems=[problem, *found.problems], size=None)


def _edges(values: np.ndarray) -> tuple[int, Mapping[int, int]]:
    """Count edges in every eighth row between numbers that are not neighbours.

    Returns:
        The number of clear edges, of two equal pixels each side; and how often each number is that of a
        single pixel and between the numbers left and right of it.
    """
    before, left, right, after = (values[::_ROWS, i : values.shape[1] - 3 + i] for i in range(4))
    far = np.maximum(left, right) - np.minimum(left, right) > 1
    clear = int(((before == left) & far & (right == after)).sum())
    left, own, right = (values[::_ROWS, i : values.shape[1] - 2 + i] for i in range(3))
    between = (left < own) & (own < right) | (left > own) & (own > right)
    return clear, _count(own[between])


def _drawing_warnings(turned: Sequence[Path], clear: int, between: Mapping[int, int]) -> Iterator[Problem]:
    """Warnings about how the label maps were written."""
    if turned:
        what = (
            f'{len(turned)} label maps, such as {turned[0]}, have EXIF data that says to turn them, but their'
            ' stored pixels are used'
        )
        yield Problem('label maps that are not turned by EXIF', what, fatal=False)
    count = sum(between.values())
    if count > max(clear, _FEWEST_EDGES) and max(between.values()) < _ONE_CLASS * count:
        what = (
            f'{count} single pixels have a number between those left and right of them, at only {clear} clear'
            ' edges: the label maps seem to have been resized with interpolation, smoothed or saved as JPEG'
        )
        remedy = 'write them again from where they were made, resized by nearest neighbour'
        yield Problem('label maps with blurred edges', what, fatal=False, remedy=remedy)


def _count(values: np.ndarray) -> dict[int, int]:
    if values.dtype == np.uint8:  # bincount is faster than unique, which sorts
        counts = np.bincount(values.ravel())
        return {int(value): int(counts[value]) for value in np.flatnonzero(counts)}
    found, counts = np.unique(values, return_counts=True)
    return dict(zip(found.tolist(), counts.tolist(), strict=True))


def _unknown_values(path: Path, counts: Mapping[int, int], rule: LabelRule) -> Iterator[Problem]:
    """The problem of values in a map that are neither classes nor ignored."""
    values = [value for value in counts if rule.name_of(value) is None]
    if values:
        first = int(rule.reduce_zero_label)
        last = first + len(rule.classes) - 1
        values_text = f'the value {values[0]}, which is'
        if values[1:]:
            values_text = f'the values {shorten(map(str, values))}, which are'
        classes = f'{len(rule.classes)} classes ({first} to {last})'
        what = f'{path} contains {values_text} none of the {classes} and not ignored'
        remedy = f'--ignore-label N ignores another value besides {IGNORED}; {_common_causes(rule)}'
        yield Problem('label maps with values outside the classes', what, remedy=remedy)


def _nothing_to_learn(pixels: Mapping[int, int], folder: str | Path, rule: LabelRule) -> Iterator[Problem]:
    """The problem of maps with valid values that leave nothing to learn."""
    if not pixels or any(rule.name_of(value) is None for value in pixels):
        return
    if any(map(rule.is_class, pixels)) and set(pixels) != {0, IGNORED}:
        return
    values = ' and '.join(map(str, sorted(pixels)))
    what = f'{folder}: the label maps contain only {values}: nothing to learn'
    yield Problem('nothing to learn', what, remedy=_common_causes(rule))


def _common_causes(rule: LabelRule) -> str:
    state = 'on' if rule.reduce_zero_label else 'off'
    return (
        'common causes are masks of 0 and 255, where the classes should be 0, 1, 2, …, and a wrong'
        f' reduce_zero_label, which is {state} here (on: 0 is unlabelled and the first class is 1)'
    )


def _warnings(pixels: Mapping[int, int], rule: LabelRule) -> Iterator[Problem]:
    present = {rule.label_of(value) for value in pixels}
    ignored = [label for label in range(len(rule.classes)) if rule.label_map.get(label) == IGNORED]
    missing = [label for label in range(len(rule.classes)) if label not in {*present, *ignored}]
    for label in ignored:
        what = f'the class {printable(rule.classes[label])} is never learned: its value is the ignored one'
        yield Problem('classes that are never learned', what, fatal=False)
    if missing:
        names = shorten((rule.classes[label] for label in missing), 6)
        what = f'{len(missing)} of {len(rule.classes)} classes never occur: {names}'
        yield Problem('classes that never occur', what, fatal=False)
    if rule.reduce_zero_label and 0 in pixels and len(rule.classes) - 1 in missing:
        what = '0 is ignored and the last class never occurs: if 0 is a class, turn reduce_zero_label off'
        yield Problem('reduce_zero_label may be wrong', what, fatal=False)
