"""Pictures of detected and annotated objects: boxes, masks and labels."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Polygon, Rectangle
from mmengine.structures import BaseDataElement
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from ..data.coco_masks import mask_fault
from ..utils.text import escape_mathtext
from .pictures import PANEL, PicturesHook, fitting_dpi, image_grid, save_figure
from .records import object_records


class DrawnObject(NamedTuple):
    """An annotated or predicted object to draw."""

    label: str
    colour: str
    box: Sequence[float]
    """Left, top, width and height in pixels."""
    mask: np.ndarray | None
    """``(H, W)``, uint8."""


def save_objects(
    path: Path,
    images: Sequence[tuple[np.ndarray, Sequence[DrawnObject]]],
    *,
    columns: int = 1,
    panel: float = PANEL,
    titles: Sequence[str] = (),
    dpi: float | None = None,
) -> None:
    """Draw images with objects.

    Args:
        path: The PNG file.
        images: RGB, ``(H, W, 3)``, uint8, each with its objects; the last object is drawn on top.
        columns: Number of images per row.
        panel: Length of an image's longer side in inches.
        titles: Titles of the columns; fewer are repeated.
        dpi: Dots per inch; by default, about the resolution of the images.
    """
    shapes = [image.shape for image, _ in images]
    figure, panels = image_grid(shapes, columns, panel, titles)
    for axes, (image, objects) in zip(panels, images, strict=False):
        axes.imshow(image, interpolation='bilinear')
        for item in objects:
            _draw(axes, item, len(image))
    save_figure(figure, path, dpi or fitting_dpi(shapes, panel))


def predicted_objects(records: Sequence[Mapping[str, Any]]) -> list[DrawnObject]:
    """Prepare predictions for drawing, the best on top.

    Args:
        records: From :func:`crossformer_mm.evaluation.records.object_records`.
    """
    return [
        DrawnObject(
            f'{record["name"]} {record["score"]:.2f}',
            _colour(record['label']),
            record['bbox'],
            coco_mask.decode(record['mask']) if 'mask' in record else None,
        )
        for record in reversed(records)
    ]


def coco_objects(coco: COCO, image_id: int | str) -> list[DrawnObject]:
    """Prepare the objects of an image for drawing: annotations, or results with the best on top.

    Args:
        coco: An annotation file, or results from ``COCO.loadRes``.
        image_id: The image's id. Invalid masks are not drawn.
    """
    size = coco.imgs[image_id]['height'], coco.imgs[image_id]['width']
    labels = {category: label for label, category in enumerate(coco.cats)}
    objects = []
    for record in sorted(coco.imgToAnns[image_id], key=lambda record: record.get('score', 0)):
        name = coco.cats[record['category_id']]['name']
        label = f'{name} {record["score"]:.2f}' if 'score' in record else name
        mask = None if mask_fault(record.get('segmentation'), *size) else coco.annToMask(record)
        objects.append(DrawnObject(label, _colour(labels[record['category_id']]), record['bbox'], mask))
    return objects


def true_objects(found: BaseDataElement, classes: Sequence[str]) -> list[DrawnObject]:
    """Prepare the ground truth of an image for drawing.

    Args:
        found: MMDetection's ``gt_instances``.
        classes: The class names.
    """
    boxes = getattr(found.bboxes, 'tensor', found.bboxes).reshape(-1, 4).tolist()
    masks = found.masks.to_ndarray() if 'masks' in found else [None] * len(boxes)
    return [
        DrawnObject(classes[label], _colour(label), [left, top, right - left, low - top], mask)
        for label, (left, top, right, low), mask in zip(found.labels.tolist(), boxes, masks, strict=True)
    ]


class ObjectPicturesHook(PicturesHook):
    """Draws the objects of each tested image, the ground truth left of the prediction.

    Args:
        folder: The folder for the pictures.
        names: The name of the picture of each image path.
        score_thr: Objects of a lower score are left out.
    """

    def __init__(self, folder: str | Path, names: Mapping[str, str], score_thr: float) -> None:
        super().__init__(folder, names)
        self.score_thr = score_thr

    def draw(self, path: Path, picture: np.ndarray, sample: BaseDataElement, meta: Mapping[str, Any]) -> None:
        """Draw an image."""
        classes = meta['classes']
        records = object_records(sample, classes, picture.shape[:2], self.score_thr)
        panels = {'prediction': (picture, predicted_objects(records))}
        if 'gt_instances' in sample:
            truth = (picture, true_objects(sample.gt_instances, classes))
            panels = {'ground truth': truth, **panels}
        save_objects(path, list(panels.values()), columns=len(panels), titles=list(panels))


def _colour(label: int) -> str:
    return f'C{label % 10}'


def _draw(axes: Axes, item: DrawnObject, height: int) -> None:
    if item.mask is not None:
        outlines, _ = cv2.findContours(item.mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        for outline in outlines:
            corners = outline[:, 0]  # [points, 2]
            axes.add_patch(Polygon(corners, facecolor=item.colour, alpha=0.4))
            axes.add_patch(Polygon(corners, fill=False, edgecolor='white', linewidth=1))
    left, top, *size = item.box
    corner = (left - 0.5, top - 0.5)  # the origin of the axes is the centre of the first pixel
    axes.add_patch(Rectangle(corner, *size, fill=False, color=item.colour))
    axes.text(
        *corner,
        escape_mathtext(item.label),
        color='white',
        fontsize=7,
        verticalalignment='bottom' if top > 0.06 * height else 'top',
        bbox={'facecolor': item.colour, 'edgecolor': 'none', 'pad': 1},
    )
