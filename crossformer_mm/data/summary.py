"""Count what a built dataset contains, and choose samples of it, without reading images."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from .images import NoImageError, image_header, spread

_READ = 20_000  # of a larger dataset, only this many evenly spaced images are described
_HEADERS = 200  # of images whose size is not in the annotations


class Contents(NamedTuple):
    """What a dataset contains."""

    images: int
    read: int
    """The number of images that are described below."""
    counts: Mapping[int, int] | None
    """Objects, or images of a classifier, by label; None for label maps."""
    objects: bool
    """Whether objects were counted."""
    sizes: Sequence[tuple[int, int]]
    """Width and height of the images, or of evenly spaced ones."""
    samples: Sequence[dict[str, Any]]
    """What the dataset knows of some evenly spaced images, if possible with objects."""


def contents_of(dataset: Any, samples: int, ignore_exif: bool = False) -> Contents | None:
    """Describe a dataset.

    Args:
        dataset: A dataset of MMEngine, or a wrapper of one; others are not described.
        samples: How many samples to choose.
        ignore_exif: Whether images are not turned as their EXIF data says.

    Returns:
        The description, or None if the dataset does not say what it contains.
    """
    while not hasattr(dataset, 'get_data_info') and hasattr(dataset, 'dataset'):
        dataset = dataset.dataset
    if not hasattr(dataset, 'get_data_info') or not len(dataset):
        return None
    indices = spread(range(len(dataset)), _READ)
    counts: Counter[int] = Counter()
    sizes, labelled, paths = [], [], []
    kind = ''
    for index in indices:
        info = dataset.get_data_info(index)
        labels = _labels(info)
        kind = kind or next((key for key in ('instances', 'gt_label', 'seg_map_path') if key in info), '')
        counts.update(labels)
        if 'width' in info and 'height' in info:
            sizes.append((info['width'], info['height']))
        paths.append(info.get('img_path'))
        if labels or kind != 'instances':
            labelled.append(index)
    if not kind or None in paths:
        return None
    counted = counts if kind != 'seg_map_path' else None
    chosen = [dataset.get_data_info(index) for index in spread(labelled, samples)]
    sizes = sizes or list(_header_sizes(spread(paths, _HEADERS), ignore_exif))
    return Contents(len(dataset), len(indices), counted, kind == 'instances', sizes, chosen)


def _labels(info: Mapping[str, Any]) -> list[int]:
    """The labels of an image's objects, without crowds, or of the image itself."""
    if 'instances' in info:
        return [item['bbox_label'] for item in info['instances'] if not item.get('ignore_flag')]
    label = info.get('gt_label')
    if label is None:
        return []
    return [int(one) for one in (label if isinstance(label, list | tuple) else [label])]


def _header_sizes(paths: Sequence[str], ignore_exif: bool) -> Iterator[tuple[int, int]]:
    for path in paths:
        try:
            header = image_header(Path(path), ignore_exif)
        except NoImageError:
            continue
        yield header.width, header.height
