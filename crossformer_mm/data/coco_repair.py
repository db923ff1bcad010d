"""Repair fields of an annotation file that are missing or of another type, if only one value can be meant."""

from collections import defaultdict
from typing import Any

from pycocotools import mask as coco_mask

from .coco_masks import mask_fault
from .coco_values import (
    Record,
    as_int,
    as_number,
    drop_records,
    has_size,
    is_box,
    is_key,
    is_number,
    numbers_fault,
    records_of,
)
from .problems import Repairs


def repair_categories(content: Record, note: Repairs) -> None:
    """Name categories that have no name, and drop unused ones with the name of another.

    Roboflow writes such a category 0, as the parent of a class of the same name.

    Args:
        content: The JSON object with repaired ids, changed in place.
        note: Called with each repair.
    """
    named = defaultdict(list)
    for category in records_of(content, 'categories'):
        name = category.get('name')
        if name in (None, '') or type(name) is int:
            category['name'] = f'class {category.get("id")}' if name in (None, '') else str(name)
            note('categories without a name as text, named', f'{name!r} → {category["name"]!r:.60}')
        if isinstance(category['name'], str):
            named[category['name']].append(category)
    repeated = [group for group in named.values() if len(group) > 1]
    if not repeated:
        return
    used = {a['category_id'] for a in records_of(content, 'annotations') if is_key(a.get('category_id'))}
    for group in repeated:
        unused = [c for c in group if c.get('id') not in used]
        if len(unused) == len(group):  # a parent before a class
            unused.sort(key=lambda c: c['name'] == c.get('supercategory'))
            unused = unused[:-1]
        for category in unused:
            what = f'the id {category.get("id")!r:.60}, "{category["name"]:.60}"'
            note('unused categories with the name of another, left out', what)
        drop_records(content, 'categories', {id(category) for category in unused})


def repair_sizes(content: Record, note: Repairs) -> None:
    """Read the heights and widths of images as whole numbers.

    Args:
        content: The JSON object, changed in place.
        note: Called with each repair.
    """
    for image in records_of(content, 'images'):
        for side in ('height', 'width'):
            value = image.get(side)
            if type(value) is not int and (number := as_int(value)) is not None:
                image[side] = number
                note(
                    'sizes with decimals or as text, read as numbers',
                    f'image {image.get("id")!r:.60}: {value!r:.60}',
                )


def repair_annotations(content: Record, note: Repairs) -> None:
    """Complete annotations: ``iscrowd``, ``ignore``, boxes, areas, and lists of points as polygons.

    Args:
        content: The JSON object with repaired ids and sizes, changed in place.
        note: Called with each repair.
    """
    images = {i['id']: i for i in records_of(content, 'images') if is_key(i.get('id'))}
    for annotation in records_of(content, 'annotations'):
        where = f'annotation {annotation["id"]}'
        if type(annotation.get('iscrowd')) not in (int, bool) or 'ignore' in annotation:
            _repair_flags(annotation, where, note)
        shape = annotation.get('segmentation')
        if type(shape) is list and shape and not (type(shape[0]) is list and len(shape[0]) > 4):
            _repair_polygons(annotation, where, note)
        box, area = annotation.get('bbox'), annotation.get('area')
        box_is_good = is_box(box)
        if box_is_good and type(area) in (int, float) and area > 0:
            continue
        key = annotation.get('image_id')
        image = images.get(key, {}) if is_key(key) else {}
        mask = _encoded(annotation.get('segmentation'), image)
        if not box_is_good:
            _repair_box(annotation, mask, where, note)
        _repair_area(annotation, mask, where, note)


def _repair_flags(annotation: Record, where: str, note: Repairs) -> None:
    crowd = annotation.get('iscrowd')
    if crowd in (None, '', '0', '1'):
        annotation['iscrowd'] = int(crowd or 0)
        note('iscrowd that is missing or text, read as 0 or as a number', where)
    if annotation.get('ignore') in ('0', '1'):
        annotation['ignore'] = int(annotation['ignore'])
        note('ignore as text, read as a number', where)


def _repair_polygons(annotation: Record, where: str, note: Repairs) -> None:
    """Read [x, y, …] and [[x, y], …] as the one polygon that they are, and [[[x, y], …], …] as polygons."""
    shape = annotation['segmentation']
    if len(shape) > 4 and numbers_fault(shape) is None:
        polygons = [shape]
    elif len(shape) > 2 and all(_is_point(point) for point in shape):
        polygons = [[number for point in shape for number in point]]
    elif all(isinstance(part, list) and part and all(map(_is_point, part)) for part in shape):
        polygons = [[number for point in part for number in point] for part in shape]
    else:
        return
    annotation['segmentation'] = polygons
    note('lists of points or of numbers, read as polygons', where)


def _is_point(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and numbers_fault(value) is None


def _repair_box(annotation: Record, mask: Record | None, where: str, note: Repairs) -> None:
    box = annotation.get('bbox')
    if isinstance(box, list) and len(box) == 4 and all(as_number(side) is not None for side in box):
        annotation['bbox'] = [as_number(side) for side in box]
        note('boxes as text, read as numbers', where)
    elif not box and mask:
        annotation['bbox'] = coco_mask.toBbox(mask).tolist()
        note('missing boxes, computed from the masks', where)


def _repair_area(annotation: Record, mask: Record | None, where: str, note: Repairs) -> None:
    """Compute a missing area, or one of 0 or below, which training would leave out."""
    box, area = annotation.get('bbox'), annotation.get('area')
    if not is_box(box) or numbers_fault(box):
        return
    computed = float(coco_mask.area(mask)) if mask else 0.0
    computed = computed or float(box[2]) * float(box[3])
    if is_number(area) and (area > 0 or min(box[2:]) < 1):
        return
    annotation['area'] = computed
    note('areas that are missing or not above 0, computed from the masks or boxes', f'{where}: {computed:g}')


def _encoded(segmentation: Any, image: Record) -> Record | None:
    """A mask in pycocotools' own form, if it is valid."""
    if not has_size(image) or mask_fault(segmentation, image['height'], image['width']):
        return None
    height, width = image['height'], image['width']
    if isinstance(segmentation, list):
        return coco_mask.merge(coco_mask.frPyObjects(segmentation, height, width))
    if isinstance(segmentation['counts'], list):
        return coco_mask.frPyObjects(segmentation, height, width)
    return segmentation
