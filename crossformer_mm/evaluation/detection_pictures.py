"""Pictures of detected and annotated objects: boxes, masks and labels."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Polygon, Rectangle
from pycocotools.coco import COCO

from ..data.coco_masks import mask_fault
from ..deploy.masks import part_of
from ..deploy.predictions import Objects
from ..utils.text import escape_mathtext
from .pictures import PANEL, fitting_dpi, image_grid, save_figure, show

_LABELLED = 100  # objects of a prediction: those of many tiles would be covered by labels


class DrawnObject(NamedTuple):
    """An annotated or predicted object to draw."""

    label: str
    colour: str
    box: Sequence[float]
    """Left, top, width and height in pixels."""
    mask: np.ndarray | None
    """``(h, w)``, uint8."""
    corner: tuple[int, int] = (0, 0)
    """Where the mask starts in the image: left and top."""


def save_objects(
    path: Path,
    images: Sequence[tuple[np.ndarray, Iterable[DrawnObject]]],
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
    figure = objects_figure(images, columns, panel, titles)
    save_figure(figure, path, dpi or fitting_dpi(shapes, panel))


def objects_figure(
    images: Sequence[tuple[np.ndarray, Iterable[DrawnObject]]],
    columns: int = 1,
    panel: float = PANEL,
    titles: Sequence[str] = (),
) -> Figure:
    """The figure that :func:`save_objects` writes, with the same arguments."""
    figure, panels = image_grid([image.shape for image, _ in images], columns, panel, titles)
    for axes, (image, objects) in zip(panels, images, strict=False):
        show(axes, image, 'bilinear')
        for item in objects:
            _draw(axes, item, len(image))
    return figure


def drawn_objects(
    found: Objects, classes: Sequence[str], size: tuple[int, int], score_thr: float
) -> Iterator[DrawnObject]:
    """Prepare predictions for drawing, with one mask in memory at a time and labels for the 100 best.

    Args:
        found: The objects.
        classes: The class names.
        size: The image's height and width; boxes are clipped to it.
        score_thr: Objects of a lower score are left out.

    Yields:
        The objects, the best last, which is drawn on top.
    """
    for rank, index in reversed(list(enumerate(np.flatnonzero(found.scores >= score_thr)))):
        label = int(found.labels[index])
        name = f'{classes[label]} {found.scores[index]:.2f}' if rank < _LABELLED else ''
        (left, top), (right, low) = found.boxes[index].reshape(2, 2).clip(0, size[::-1])
        item = DrawnObject(name, colour_of(label), (left, top, right - left, low - top), None)
        if found.masks is not None:
            part = part_of(found.masks, index)
            item = item._replace(mask=part.pixels.astype(np.uint8), corner=(part.left, part.top))
        yield item


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
        objects.append(DrawnObject(label, colour_of(labels[record['category_id']]), record['bbox'], mask))
    return objects


def colour_of(label: int) -> str:
    """Matplotlib's name of a class's colour."""
    return f'C{label % 10}'


def _draw(axes: Axes, item: DrawnObject, height: int) -> None:
    if item.mask is not None and item.mask.size:
        outlines, _ = cv2.findContours(
            item.mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE, offset=item.corner
        )
        for outline in outlines:
            corners = outline[:, 0]  # [points, 2]; add_patch would look for the axes' limits at each, slowly
            axes.add_artist(Polygon(corners, facecolor=item.colour, alpha=0.4))
            axes.add_artist(Polygon(corners, fill=False, edgecolor='white', linewidth=1))
    left, top, *size = item.box
    corner = (left - 0.5, top - 0.5)  # the origin of the axes is the centre of the first pixel
    axes.add_patch(Rectangle(corner, *size, fill=False, color=item.colour))
    if not item.label:
        return
    axes.text(
        *corner,
        escape_mathtext(item.label),
        color='white',
        fontsize=7,
        verticalalignment='bottom' if top > 0.06 * height else 'top',
        bbox={'facecolor': item.colour, 'edgecolor': 'none', 'pad': 1},
    )
