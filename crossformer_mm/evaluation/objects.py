"""Pictures of predictions beside the ground truth, from files in COCO's formats alone."""

import json
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Polygon, Rectangle
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from ..utils.text import escape_mathtext

SMALL_PANEL = 2.6  # inches of one image's longer side, where there are many
PANEL = 6.5  # and where there is one: lines and letters are so many points on it, whatever its pixels
PIXELS = (800, 2000)  # at least, at most, along that
LEAST = 0.5  # inches of a side, however thin the image
TITLE = 0.3  # inches above the images


def read_picture(path: str | Path) -> np.ndarray:
    """Read an image to draw on.

    Args:
        path: A file that the evaluation has read before.

    Returns:
        RGB, ``(H, W, 3)``, uint8, turned as its EXIF says.
    """
    encoded = np.frombuffer(Path(path).read_bytes(), np.uint8)
    return cv2.cvtColor(cv2.imdecode(encoded, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)


@dataclass(frozen=True)
class DrawnObject:
    """What is drawn of one object, true or predicted."""

    label: str
    colour: str
    box: Sequence[float]  # left, top, width, height
    mask: np.ndarray | None  # [H, W], uint8


class ResultPictures:
    """Draws the images of a data set with their true and their predicted objects.

    Args:
        annotations: COCO annotation file.
        results: Results in COCO's format, of masks, around which boxes are drawn, or of boxes.
        images: Folder of the images.
        score_thr: Predictions below this score are left out.
    """

    def __init__(self, annotations: Path, results: Path, images: Path, score_thr: float = 0.5) -> None:
        with redirect_stdout(StringIO()):  # pycocotools reports its progress there
            self.coco = COCO(annotations)
        self.images = images
        self.score_thr = score_thr
        self.predictions: dict[int, list[dict[str, Any]]] = {key: [] for key in self.coco.imgs}
        for result in json.loads(results.read_text(encoding='utf-8')):
            if result['score'] >= score_thr:
                self.predictions[result['image_id']].append(result)

    def save_sheet(self, path: Path, count: int = 8, pairs: int = 2) -> None:
        """Write the first ``count`` images into one picture, ``pairs`` side by side in a row."""
        self._save(path, list(self.coco.imgs)[:count], pairs)

    def save_each(self, folder: Path) -> None:
        """Write a picture of every image, named as the image is, into ``folder``."""
        folder.mkdir(parents=True, exist_ok=True)
        for image_id, image in self.coco.imgs.items():
            self._save(folder / f'{Path(image["file_name"]).stem}.png', [image_id], 1, scale=1.5)

    def _save(self, path: Path, image_ids: list[int], pairs: int, scale: float = 1) -> None:
        rows = -(-len(image_ids) // pairs)
        width, height = 2 * pairs * SMALL_PANEL * scale, rows * SMALL_PANEL * scale + TITLE
        figure = Figure(figsize=(width, height))
        figure.subplots_adjust(0, 0, 1, 1 - TITLE / height, wspace=0.03, hspace=0.03)
        panels = figure.subplots(rows, 2 * pairs, squeeze=False)
        for axes in panels.flat:
            axes.set_axis_off()
        for axes in panels[0, ::2]:
            axes.set_title('ground truth')
        for axes in panels[0, 1::2]:
            axes.set_title(f'prediction (score ≥ {self.score_thr:g})')
        for image_id, (left, right) in zip(image_ids, panels.reshape(-1, 2), strict=False):
            picture = read_picture(self.images / self.coco.imgs[image_id]['file_name'])
            draw_objects(left, picture, self._true_objects(image_id))
            draw_objects(right, picture, self._predicted_objects(image_id))
        figure.savefig(path, dpi=100)

    def _true_objects(self, image_id: int) -> list[DrawnObject]:
        annotations = self.coco.loadAnns(self.coco.getAnnIds(image_id))
        return [
            self._object(a, self._name(a), self.coco.annToMask(a) if a.get('segmentation') else None)
            for a in annotations
        ]

    def _predicted_objects(self, image_id: int) -> list[DrawnObject]:
        """Best last, so that it lies on top."""
        results = sorted(self.predictions[image_id], key=lambda result: result['score'])
        return [
            self._object(
                result,
                f'{self._name(result)} {result["score"]:.2f}',
                coco_mask.decode(result['segmentation']) if 'segmentation' in result else None,
            )
            for result in results
        ]

    def _name(self, record: dict[str, Any]) -> str:
        return self.coco.cats[record['category_id']]['name']

    def _object(self, record: dict[str, Any], label: str, mask: np.ndarray | None) -> DrawnObject:
        place = list(self.coco.cats).index(record['category_id'])
        box = record['bbox'] if 'bbox' in record else coco_mask.toBbox(record['segmentation'])
        return DrawnObject(label, f'C{place % 10}', box, mask)


def draw_objects(axes: Axes, picture: np.ndarray, objects: Sequence[DrawnObject]) -> None:
    """Draw an image with the boxes, masks and labels of objects.

    Args:
        axes: Without ticks and frame.
        picture: RGB, ``(H, W, 3)``.
        objects: The last lies on top.
    """
    axes.imshow(picture, interpolation='bilinear')
    for item in objects:
        if item.mask is not None:
            _draw_mask(axes, item)
        left, top, width, height = item.box
        corner = (left - 0.5, top - 0.5)  # the axes count from the first pixel's centre
        axes.add_patch(Rectangle(corner, width, height, fill=False, color=item.colour))
        axes.text(
            *corner,
            escape_mathtext(item.label),
            color='white',
            fontsize=7,
            verticalalignment='bottom' if top > 0.06 * len(picture) else 'top',
            bbox={'facecolor': item.colour, 'edgecolor': 'none', 'pad': 1},
        )


def _draw_mask(axes: Axes, item: DrawnObject) -> None:
    outlines, _ = cv2.findContours(item.mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    for outline in outlines:
        corners = outline[:, 0]  # [points, 2]
        axes.add_patch(Polygon(corners, facecolor=item.colour, alpha=0.4))
        axes.add_patch(Polygon(corners, fill=False, edgecolor='white', linewidth=1))
