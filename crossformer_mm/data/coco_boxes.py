"""Judge whether boxes are written as COCO writes them: left, top, width and height, in pixels."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .coco_masks import is_far
from .coco_values import Record, has_size, is_box, is_key, is_number, numbers_fault
from .problems import Problem

Corners = np.ndarray  # left, top, right, bottom [N, 4]

LEFT_OUT = 'objects that training leaves out'
_SAMPLED = 1000  # boxes of a file that are compared with other conventions
_SURE = 10  # boxes from which the comparison is trusted
_ROUNDING = 1.0  # pixels that a box may extend over the edge, as with coordinates that start at 1
_EQUAL = 0.02  # relative difference of areas, or of a box and its mask's extent
_COCO = '[left, top, width, height]'


def leaves_out(annotation: Record, image: Record) -> str | None:
    """Why training leaves out the object of an annotation, phrased to follow its box; None if it does not."""
    left, top, width, height = annotation['bbox']
    if left + width <= 0 or top + height <= 0 or left >= image['width'] or top >= image['height']:
        return f'outside {_size(image)}'
    if width < 1 or height < 1 or annotation['area'] <= 0:
        return f'and the area {annotation["area"]:g}: less than a pixel'
    return None


def box_problem(where: str, annotation: Record, image: Record) -> Problem | None:
    """Check the box of an annotation whose other fields are valid."""
    box = annotation['bbox']
    where = f'{where} has the bbox {box!r:.80}'
    if not isinstance(box, list) or len(box) != 4 or numbers_fault(box):
        return Problem('boxes that are not four numbers', f'{where}; COCO writes {_COCO}')
    left, top, width, height = box
    if width < 0 or height < 0:
        return Problem('boxes of negative size', f'{where}; COCO writes {_COCO}')
    right, bottom = left + width, top + height
    if is_far(min(left, top), max(right, bottom), max(image['width'], image['height'])):
        return Problem('boxes far outside', f'{where}, far outside {_size(image)}')
    if why := leaves_out(annotation, image):
        return Problem(LEFT_OUT, f'{where}, {why}', fatal=False)
    over = max(-left, -top, right - image['width'], bottom - image['height'])
    if over > _ROUNDING:
        what = f'{where}, {over:.4g} pixels over {_size(image)}'
        return Problem('boxes that reach outside', what, fatal=False)
    return None


def _size(image: Record) -> str:
    return f'its image of {image["width"]}×{image["height"]}'


def convention_problem(annotations: Sequence[Any], images: Mapping[int | str, Record]) -> Problem | None:
    """Recognise boxes of another convention, by a sample of them.

    A convention fits a box if the box is inside its image, is as large as its area says, and encloses its
    polygons.

    Args:
        annotations: The records as in the file.
        images: Records with heights and widths, by id.

    Returns:
        The problem, fatal if there are enough boxes to be sure; None if the boxes are as in COCO.
    """
    known = [a for a in annotations[:: max(1, len(annotations) // _SAMPLED)] if _is_known(a, images)]
    if not known:
        return None
    boxes = np.array([a['bbox'] for a in known], float)
    areas = np.array([_area(a) for a in known], float)
    sizes = np.array([[images[a['image_id']][side] for side in ('width', 'height')] for a in known], float)
    extents = np.array([_extent(a) for a in known], float)
    if boxes.min() >= 0 and boxes.max() <= 1 and sizes.min() > 2:
        return Problem(
            'boxes of another convention',
            f'all boxes are from 0 to 1, such as {known[0]["bbox"]}: fractions of the image, as YOLO writes'
            f' them; COCO writes {_COCO} in pixels',
        )
    first, second = boxes[:, :2], boxes[:, 2:]
    readings = {
        _COCO: np.hstack([first, first + second]),
        '[left, top, right, bottom]': boxes,
        '[centre x, centre y, width, height]': np.hstack([first - second / 2, first + second / 2]),
    }
    fits = _fits(list(readings.values()), areas, sizes, extents)
    for name, fit in zip(list(readings)[1:], fits[1:], strict=True):
        if fit.mean() >= 0.99 and fits[0].mean() <= 0.95:
            return Problem(
                'boxes of another convention',
                f'{len(known) - fits[0].sum()} of {len(known)} boxes do not fit their images, areas or masks'
                f" as {_COCO}, COCO's convention, but all fit as {name}, such as {known[0]['bbox']};"
                ' convert them',
                fatal=len(known) >= _SURE,
            )
    return None


def _is_known(annotation: Any, images: Mapping[int | str, Record]) -> bool:
    if (
        not isinstance(annotation, dict)
        or not is_box(annotation.get('bbox'))
        or numbers_fault(annotation['bbox'])
    ):
        return False
    key = annotation.get('image_id')
    image = images.get(key, {}) if is_key(key) else {}
    return has_size(image)


def _area(annotation: Record) -> float:
    area = annotation.get('area')
    return area if is_number(area) and area > 0 else np.nan


def _extent(annotation: Record) -> list[float]:
    """The left, top, right and bottom of an annotation's polygons; NaN if it has none."""
    shape = annotation.get('segmentation')
    if isinstance(shape, list) and shape and all(isinstance(polygon, list) for polygon in shape):
        numbers = [number for polygon in shape for number in polygon]
        if len(numbers) >= 6 and not numbers_fault(numbers):
            xs, ys = numbers[::2], numbers[1::2]
            return [min(xs), min(ys), max(xs), max(ys)]
    return [np.nan] * 4


def _fits(
    readings: Sequence[Corners], areas: np.ndarray, sizes: np.ndarray, extents: Corners
) -> list[np.ndarray]:
    """Whether each reading fits each box."""
    masked = ~np.isnan(extents[:, 0])
    inside, equal, around = [], [], []
    for corners in readings:
        sides = corners[:, 2:] - corners[:, :2]
        over = np.maximum(-corners[:, :2], corners[:, 2:] - sizes).max(1)
        inside.append((over <= _ROUNDING) & (sides > 0).all(1))
        equal.append(np.abs(sides.prod(1) - areas) <= _EQUAL * areas)
        tolerance = 2 + _EQUAL * np.abs(sides).max(1)
        around.append(np.abs(corners - extents).max(1) <= tolerance)
    # evidence counts only where it can decide: with some reading, the box encloses the mask or has the area
    decided = {'around': masked & np.any(around, axis=0), 'equal': ~masked & np.any(equal, axis=0)}
    return [
        inside_ & (around_ | ~decided['around']) & (equal_ | ~decided['equal'])
        for inside_, around_, equal_ in zip(inside, around, equal, strict=True)
    ]
