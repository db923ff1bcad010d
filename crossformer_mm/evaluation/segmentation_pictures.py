"""Pictures of images overlaid with class colours and a legend: ground truth, prediction, or both."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from ..utils.text import escape_mathtext
from .pictures import PANEL, fitting_dpi, image_grid, save_figure, show

TINT = 0.55  # opacity of the class colours over the image
_IGNORED = (0, 0, 0)  # the colour of ignored pixels
# Width in inches, height of a row in inches, largest number of rows.
_LEGEND, _ROW, _MOST_ROWS = 2.4, 0.21, 24


class SegmentedImage(NamedTuple):
    """An image with one or two label maps. Labels outside the classes are ignored pixels."""

    picture: np.ndarray
    """RGB, ``(H, W, 3)``, uint8."""
    labels: Sequence[np.ndarray]
    """One label map, or those of the ground truth and the prediction, ``(H, W)`` each."""


def save_segments(
    path: Path,
    images: Sequence[SegmentedImage],
    classes: Sequence[str],
    colours: Sequence[Sequence[int]],
    *,
    columns: int = 1,
    panel: float = PANEL,
    dpi: float | None = None,
) -> None:
    """Draw images overlaid with class colours, the ground truth left of the prediction, and one legend.

    Args:
        path: The PNG file.
        images: At least one image, all with the same number of label maps.
        classes: The class names.
        colours: RGB of each class, 0 to 255; further colours are ignored.
        columns: Number of images per row.
        panel: Length of an image's longer side in inches.
        dpi: Dots per inch; by default, about the resolution of the images.
    """
    shapes = [labels.shape for image in images for labels in image.labels]
    figure = segments_figure(images, classes, colours, columns, panel)
    save_figure(figure, path, dpi or fitting_dpi(shapes, panel))


def segments_figure(
    images: Sequence[SegmentedImage],
    classes: Sequence[str],
    colours: Sequence[Sequence[int]],
    columns: int = 1,
    panel: float = PANEL,
) -> Figure:
    """The figure that :func:`save_segments` writes, with the same arguments."""
    colours = [*colours[: len(classes)], _IGNORED]
    maps = len(images[0].labels)
    titles = ['ground truth', 'prediction'] if maps == 2 else []
    shares = np.stack([_shares([image.labels[i] for image in images], len(classes)) for i in range(maps)])
    legend = _legend(shares, [*classes, 'ignored'], colours)
    shapes = [labels.shape for image in images for labels in image.labels]
    room = (_LEGEND, (len(legend) + 3) * _ROW)
    figure, panels = image_grid(shapes, columns * maps, panel, titles, room)
    tinted = [(image.picture, labels) for image in images for labels in image.labels]
    for axes, (picture, labels) in zip(panels, tinted, strict=False):
        _draw(axes, picture, labels, colours)
    title = 'share of the pixels:\ntruth, prediction' if titles else None
    figure.legend(handles=legend, title=title, loc='upper right', frameon=False, fontsize=9)
    return figure


def _draw(axes: Axes, picture: np.ndarray, labels: np.ndarray, colours: Sequence[Sequence[int]]) -> None:
    tint = np.array(colours, np.uint8)[np.minimum(labels, len(colours) - 1)]
    show(axes, cv2.addWeighted(picture, 1 - TINT, tint, TINT, 0), 'nearest')


def _shares(maps: Sequence[np.ndarray], classes: int) -> np.ndarray:
    """The share of the pixels of each class and of ignored ones, ``(classes + 1,)``."""
    counts = sum(np.bincount(np.minimum(labels, classes).ravel(), minlength=classes + 1) for labels in maps)
    return counts / counts.sum()


def _legend(shares: np.ndarray, names: Sequence[str], colours: Sequence[Sequence[int]]) -> list[Patch]:
    """Legend entries of the classes that occur, most frequent first, from ``shares`` (maps, classes + 1)."""
    order = np.argsort(-shares.max(axis=0), kind='stable')[:_MOST_ROWS]
    return [
        Patch(
            color=np.divide(colours[label], 255),
            label=f'{escape_mathtext(names[label])} {", ".join(f"{s:.1%}" for s in shares[:, label])}',
        )
        for label in order
        if shares[:, label].any()
    ]
