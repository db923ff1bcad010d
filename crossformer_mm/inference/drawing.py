"""Pictures of predictions, large enough to read whatever the image's size."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from pycocotools import mask as coco_mask

from ..pictures import DrawnObject, draw_objects

LONGER_SIDE = 6.5  # inches of the picture: lines and letters are so many points on it, whatever its pixels
PIXELS = (800, 2000)  # at least, at most, along the longer side
LEGEND = 2.2  # inches beside a segmented image
ROW = 0.21  # inches of a class in it
MOST_ROWS = 24


def save_objects(path: Path, image: np.ndarray, records: Sequence[dict[str, Any]]) -> None:
    """Draw an image with the objects found in it.

    Args:
        path: The PNG file.
        image: BGR, ``(H, W, 3)``.
        records: From :func:`crossformer_mm.inference.results.object_records`.
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


def save_segments(
    path: Path,
    image: np.ndarray,
    labels: np.ndarray,
    records: Sequence[dict[str, Any]],
    colours: Sequence[Sequence[int]],
) -> None:
    """Draw an image tinted by class, with a legend.

    Args:
        path: The PNG file.
        image: BGR, ``(H, W, 3)``.
        labels: ``(H, W)``.
        records: From :func:`crossformer_mm.inference.results.segment_records`.
        colours: RGB of each class, 0 to 255.
    """
    records = records[:MOST_ROWS]
    figure, axes = _figure(image, len(records))
    table = np.asarray(colours, np.uint8)
    rgb = cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
    axes.imshow(cv2.addWeighted(rgb, 0.45, table[labels], 0.55, 0), interpolation='nearest')
    handles = [
        Patch(
            color=table[record['label']] / 255,
            label=f'{record["name"]} {record["pixels"] / labels.size:.1%}',
        )
        for record in records
    ]
    figure.legend(handles=handles, loc='upper right', frameon=False, fontsize=9)
    figure.savefig(path, format='png')


def _figure(image: np.ndarray, legend_rows: int = 0) -> tuple[Figure, Axes]:
    """A figure filled by an image, but for a legend's place at its right."""
    longer = max(image.shape[:2])
    height, width = (max(side * LONGER_SIDE / longer, 0.5) for side in image.shape[:2])
    total = width + LEGEND * bool(legend_rows)
    height = max(height, (legend_rows + 1) * ROW)
    dpi = min(max(longer, PIXELS[0]), PIXELS[1]) / LONGER_SIDE
    figure = Figure(figsize=(total, height), dpi=dpi)
    axes = figure.add_axes((0, 0, width / total, 1))
    axes.set_axis_off()
    return figure, axes
