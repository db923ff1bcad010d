"""Divide a dataset into parts by a seed, with the classes in proportion.

Classes are divided one after the other, the rarest first, as in Sechidis et al., "On the Stratification of
Multi-Label Data" (2011). The result depends on the seed, the names and the classes of the images alone, not
on their order or the platform.
"""

from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from hashlib import blake2b
from itertools import combinations

from .coco_json import Content

TRAIN = 0  # the first part, which every class needs
_PASSES, _EXCHANGES, _KINDS = 10, 50, 60  # limits of the improvement
_LEAST_GAIN = 1e-6  # a gain below is a rounding error
_Kind = tuple[int, tuple[str, ...]]  # a part, and the classes of an image in it


def divide(
    classes: Mapping[str, Collection[str]],
    shares: Sequence[float],
    seed: int = 0,
    same: Mapping[str, str] | None = None,
) -> dict[str, int]:
    """Divide images into parts.

    Each part has its share of all images and of the images of each class, as closely as they allow. Each
    class has an image in the first part, and each part with a share has an image.

    Args:
        classes: The classes of each image, by the image's name.
        shares: The share of each part, at least 0; only their proportions matter.
        seed: Another seed gives another division.
        same: The name of another image with the same content, for images that have one; both come into the
            same part.

    Returns:
        The number of the part of each image, by its name.

    Raises:
        ValueError: There are fewer different images than parts with a share.
    """
    same = same or {}
    members = defaultdict(list)
    for name in sorted(classes):
        members[same.get(name, name)].append(name)
    groups = [
        _Group(names, tuple(sorted({label for name in names for label in classes[name]})))
        for names in members.values()
    ]
    if len(groups) < sum(share > 0 for share in shares):
        raise ValueError(f'{len(groups)} different images cannot be divided into {len(shares)} parts')
    groups.sort(key=lambda group: blake2b(f'{seed}:{group.names[0]}'.encode(errors='replace')).digest())
    division = _Division(groups, shares)
    division.draw()
    division.improve()
    division.fill()
    return {name: part for group, part in division.parts.items() for name in groups[group].names}


@dataclass(frozen=True)
class _Group:
    """Images of the same content, and the classes in any of them, sorted."""

    names: list[str]
    classes: tuple[str, ...]


@dataclass
class _Division:
    """A division in the making.

    Attributes:
        parts: The part of each group, by the group's number.
        counts: How many images of a class each part has; None stands for images of any classes.
        wanted: How many it should have.
    """

    groups: Sequence[_Group]
    shares: Sequence[float]
    parts: dict[int, int] = field(default_factory=dict)
    counts: dict[str | None, list[int]] = field(init=False)
    wanted: dict[str | None, list[float]] = field(init=False)
    by_class: dict[str, list[int]] = field(init=False)

    def __post_init__(self) -> None:
        self.by_class = defaultdict(list)
        sizes: Counter[str | None] = Counter()
        for number, group in enumerate(self.groups):
            for name in (None, *group.classes):
                sizes[name] += len(group.names)
            for name in group.classes:
                self.by_class[name].append(number)
        whole = sum(map(Fraction, self.shares))
        shares = [Fraction(share) / whole for share in self.shares]
        self.wanted = {name: [float(share * size) for share in shares] for name, size in sizes.items()}
        self.counts = {name: [0] * len(shares) for name in sizes}

    def draw(self) -> None:
        """Divide the images of the rarest class first, and those without a class at the end."""
        left = {name: len(numbers) for name, numbers in self.by_class.items()}
        while left:
            rarest = min(left, key=lambda name: (left[name], name))
            for number in self.by_class[rarest]:
                if number not in self.parts:
                    only = left[rarest] == 1 and not self.counts[rarest][TRAIN]
                    self._put(number, TRAIN if only else self._neediest(rarest))
                    for name in self.groups[number].classes:
                        left[name] -= 1
            left = {name: count for name, count in left.items() if count}
        for number in range(len(self.groups)):
            if number not in self.parts:
                self._put(number, self._neediest(None))

    def improve(self) -> None:
        """Move and exchange images as long as the sum of the squared errors of classes and sizes decreases.

        Images of several classes, and the errors of many rare classes together, leave such errors.
        """
        for _ in range(_PASSES):
            moved = False
            for number in range(len(self.groups)):
                source, target = self.parts[number], self._neediest(None)
                if self._gain(number, source, target) > _LEAST_GAIN:
                    self._put(number, target)
                    moved = True
            if not self._exchange() and not moved:
                break

    def _exchange(self) -> int:
        """Exchange single images of different classes between parts; returns how many times.

        With many combinations of classes, moving images alone leaves hardly any errors.
        """
        kinds: dict[_Kind, list[int]] = defaultdict(list)
        for number, group in enumerate(self.groups):
            if len(group.names) == 1:
                kinds[self.parts[number], group.classes].append(number)
        for done in range(_EXCHANGES if len(kinds) <= _KINDS else 0):
            pairs = [
                (self._gain_of_exchange(first, second), i, j)
                for (i, first), (j, second) in combinations(enumerate(kinds), 2)
                if first[0] != second[0] and kinds[first] and kinds[second]
            ]
            gain, i, j = max(pairs, default=(0, 0, 0))
            if gain <= _LEAST_GAIN:
                return done
            first, second = list(kinds)[i], list(kinds)[j]
            for kind, other in ((first, second), (second, first)):
                number = kinds[kind].pop()
                self._put(number, other[0])
                kinds[other[0], kind[1]].insert(0, number)
        return _EXCHANGES

    def _gain_of_exchange(
        self, first: tuple[int, frozenset[str]], second: tuple[int, frozenset[str]]
    ) -> float:
        """By how much the sum of the squared errors decreases if images of two kinds are exchanged."""
        gain = 0.0
        for (source, classes), (target, others) in ((first, second), (second, first)):
            for name in (name for name in classes if name not in others):
                if source == TRAIN and self.counts[name][TRAIN] == 1:
                    return 0
                gain += 2 * (self._excess(name, source) - self._excess(name, target) - 1)
        return gain

    def fill(self) -> None:
        """Give every part with a share an image."""
        for part, share in enumerate(self.shares):
            while share > 0 and not self.counts[None][part]:
                sizes = Counter(self.parts.values())
                givers = [number for number, giver in self.parts.items() if sizes[giver] > 1]
                self._put(min(givers, key=lambda number: (self._last_ones(number), number)), part)

    def _put(self, number: int, part: int) -> None:
        group, before = self.groups[number], self.parts.get(number)
        for name in (None, *group.classes):
            self.counts[name][part] += len(group.names)
            if before is not None:
                self.counts[name][before] -= len(group.names)
        self.parts[number] = part

    def _excess(self, name: str | None, part: int) -> float:
        return self.counts[name][part] - self.wanted[name][part]

    def _neediest(self, name: str | None) -> int:
        parts = [part for part, share in enumerate(self.shares) if share > 0]
        return min(parts, key=lambda part: (self._excess(name, part), self._excess(None, part), part))

    def _gain(self, number: int, source: int, target: int) -> float:
        """By how much the sum of the squared errors decreases if a group is moved."""
        group = self.groups[number]
        size = len(group.names)
        if source == target or (source == TRAIN and self._last_ones(number)):
            return 0
        return sum(
            2 * size * (self._excess(name, source) - self._excess(name, target) - size)
            for name in (None, *group.classes)
        )

    def _last_ones(self, number: int) -> int:
        """How many classes would have no image in the part of a group without it."""
        part, group = self.parts[number], self.groups[number]
        return sum(self.counts[name][part] <= len(group.names) for name in group.classes)


def classes_by_image(content: Content) -> dict[str, set[str]]:
    """The names of the classes in each image of COCO content, by ``file_name``.

    Args:
        content: Valid COCO content.
    """
    names = {category['id']: category['name'] for category in content['categories']}
    images = {image['id']: image['file_name'] for image in content['images']}
    found: dict[str, set[str]] = {name: set() for name in images.values()}
    for annotation in content['annotations']:
        found[images[annotation['image_id']]].add(names[annotation['category_id']])
    return found


def select(content: Content, names: Collection[str]) -> Content:
    """The part of COCO content with some images; it keeps all categories.

    Args:
        content: Valid COCO content.
        names: The ``file_name`` of each image to keep.
    """
    images = [image for image in content['images'] if image['file_name'] in names]
    kept = {image['id'] for image in images}
    annotations = [annotation for annotation in content['annotations'] if annotation['image_id'] in kept]
    return {**content, 'images': images, 'annotations': annotations}
