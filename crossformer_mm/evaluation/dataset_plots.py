"""Pictures of what is in a data set: its classes, the sizes of its boxes, some of its images."""

import random
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from matplotlib.figure import Figure
from pycocotools import mask as coco_mask

from ..data.coco import Records
from ..data.coco_masks import mask_fault
from ..data.label_check import LabelReport, LabelRule
from ..data.label_files import Pair, read_label_map
from ..utils.text import escape_mathtext
from .objects import SMALL_PANEL, DrawnObject, draw_objects, read_picture
from .segments import SegmentedImage, save_pairs

_BARS = 60  # classes that a plot names
_SAMPLES, _COLUMNS = 12, 4
_DOTS = 150  # an inch, of a page of label maps


def plot_classes(path: Path, records: Records) -> None:
    """Draw how many objects each class has.

    Args:
        path: The PNG file to write.
        records: Of an annotation file.
    """
    counts = Counter(annotation['category_id'] for annotation in records.annotations)
    bars = [(category['name'], counts[category['id']]) for category in records.categories]
    _save_bars(path, bars, 'objects')


def plot_labels(path: Path, labels: LabelReport) -> None:
    """Draw which share of the pixels each value has.

    Args:
        path: The PNG file to write.
        labels: What was found in a folder of label maps.
    """
    total = sum(labels.pixels.values())
    bars = [
        (labels.rule.name_of(value) or f'{value}: no class', 100 * count / total)
        for value, count in labels.pixels.items()
    ]
    _save_bars(path, bars, '% of the pixels')


def _save_bars(path: Path, bars: Sequence[tuple[str, float]], unit: str) -> None:
    bars = sorted(bars, key=lambda bar: -bar[1])
    names, amounts = zip(*bars[:_BARS], strict=True)
    figure = Figure(figsize=(7, 1 + 0.2 * len(names)), layout='constrained')
    axes = figure.subplots()
    axes.barh(range(len(names)), amounts)
    axes.set_yticks(range(len(names)), [escape_mathtext(name[:40]) for name in names])
    axes.invert_yaxis()
    title = f'the {_BARS} most frequent of {len(bars)} classes' if len(bars) > _BARS else ''
    axes.set(xlabel=unit, title=title)
    figure.savefig(path, dpi=100)


def plot_boxes(path: Path, records: Records) -> None:
    """Draw how large the boxes are.

    Args:
        path: The PNG file to write.
        records: Of an annotation file, at least one annotation.
    """
    sizes = np.array([annotation['bbox'][2:] for annotation in records.annotations], float)  # [N, 2]
    sides = np.sqrt(sizes.prod(1)).clip(1)
    figure = Figure(figsize=(7, 4), layout='constrained')
    axes = figure.subplots()
    axes.hist(sides, bins=np.geomspace(1, max(2, sides.max()), 50))
    for side in (32, 96):  # COCO's bounds of small and medium objects
        axes.axvline(side, color='k', linestyle=':')
    axes.set(xscale='log', xlabel='square root of the box area, pixels', ylabel='objects')
    figure.savefig(path, dpi=100)


def save_samples(path: Path, records: Records, images: Mapping[Path, dict[str, Any]], seed: int) -> None:
    """Draw some images with their objects.

    Args:
        path: The PNG file to write.
        records: Of an annotation file.
        images: Readable files and their records.
        seed: Chooses among those with objects.
    """
    objects = defaultdict(list)
    for annotation in records.annotations:
        objects[annotation['image_id']].append(annotation)
    paths = [path for path, image in images.items() if image['id'] in objects]
    paths = random.Random(seed).sample(paths, min(_SAMPLES, len(paths)))
    if not paths:
        return
    rows = -(-len(paths) // _COLUMNS)
    figure = Figure(figsize=(_COLUMNS * SMALL_PANEL, rows * SMALL_PANEL), layout='constrained')
    panels = figure.subplots(rows, _COLUMNS, squeeze=False).ravel()
    for axes in panels:
        axes.set_axis_off()
    for axes, file in zip(panels, paths, strict=False):
        image = images[file]
        draw_objects(axes, read_picture(file), _drawn(records, image, objects[image['id']]))
    figure.savefig(path, dpi=100)


def _drawn(records: Records, image: dict, annotations: Sequence[dict]) -> list[DrawnObject]:
    places = {category['id']: place for place, category in enumerate(records.categories)}
    return [
        DrawnObject(
            records.categories[places[a['category_id']]]['name'],
            f'C{places[a["category_id"]] % 10}',
            a['bbox'],
            _mask(a.get('segmentation'), image['height'], image['width']),
        )
        for a in annotations
    ]


def _mask(segmentation: Any, height: int, width: int) -> np.ndarray | None:
    """``(height, width)``, uint8; None where there is no sound one."""
    if mask_fault(segmentation, height, width):
        return None
    if isinstance(segmentation, list) or isinstance(segmentation['counts'], list):
        segmentation = coco_mask.frPyObjects(segmentation, height, width)
    if isinstance(segmentation, list):
        segmentation = coco_mask.merge(segmentation)
    return coco_mask.decode(segmentation)


def save_label_samples(
    path: Path, pairs: Sequence[Pair], rule: LabelRule, colours: Sequence[Sequence[int]], seed: int
) -> None:
    """Draw some images with their label maps over them, and a legend.

    Args:
        path: The PNG file to write.
        pairs: Readable images and label maps of their sizes.
        rule: What the values of the maps mean; what is no class is dark.
        colours: RGB of each class, 0 to 255.
        seed: Chooses among the pairs.
    """
    chosen = random.Random(seed).sample(pairs, min(_SAMPLES, len(pairs)))
    if not chosen:
        return
    images = [_labelled(image, label_map, rule) for image, label_map in chosen]
    save_pairs(
        path, images, rule.classes, colours, pairs=min(_COLUMNS, len(images)), panel=SMALL_PANEL, dpi=_DOTS
    )


def _labelled(image: Path, label_map: Path, rule: LabelRule) -> SegmentedImage:
    """An image and its labels, no larger than they are drawn."""
    picture, values = read_picture(image), read_label_map(label_map)
    scale = min(1, SMALL_PANEL * _DOTS / max(values.shape))
    size = [max(1, round(side * scale)) for side in values.shape[::-1]]
    found, places = np.unique(values, return_inverse=True)
    labels = [rule.label_of(int(v)) if rule.is_class(int(v)) else len(rule.classes) for v in found]
    labels = np.array(labels, np.uint8)[places.reshape(values.shape)]  # [H, W]
    return SegmentedImage(
        cv2.resize(picture, size, interpolation=cv2.INTER_AREA),
        None,
        cv2.resize(labels, size, interpolation=cv2.INTER_NEAREST),
    )
