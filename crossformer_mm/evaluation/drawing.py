"""Pictures of detections, large enough to read whatever the image's size."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from pycocotools import mask as coco_mask

from .objects import LEAST, PANEL, PIXELS, DrawnObject, draw_objects


def save_objects(path: Path, image: np.ndarray, records: Sequence[dict[str, Any]]) -> None:
    """Draw an image with the objects found in it.

    Args:
        path: The PNG file.
        image: BGR, ``(H, W, 3)``.
        records: From :func:`crossformer_mm.evaluation.records.object_records`.
    """
    figure, axes = _figure(image)
    objects = [
        DrawnObject(
            f'{record["name"]} {record["score"]:.2f}',
            f'C{record["label"] % 10}',
            record['bbox'],
            coco_mask.decode(record['mask']) if 'mask' in record else None,
        )
        for record in reversed(records)  # the best on top
    ]
    draw_objects(axes, cv2.cvtColor(image, cv2.COLOR_BGR2RGB), objects)
    figure.savefig(path, format='png')


def _figure(image: np.ndarray) -> tuple[Figure, Axes]:
    """A figure filled by an image."""
    longer = max(image.shape[:2])
    height, width = (max(side * PANEL / longer, LEAST) for side in image.shape[:2])
    figure = Figure(figsize=(width, height), dpi=min(max(longer, PIXELS[0]), PIXELS[1]) / PANEL)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    return figure, axes
