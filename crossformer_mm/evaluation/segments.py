"""Pictures of segmented images: the ground truth beside the prediction, tinted by class, and a legend."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from mmengine.hooks import Hook
from mmengine.runner import Runner

from ..data.label_maps import label_array, png_name
from ..utils.text import escape_mathtext
from .objects import LEAST, PANEL, PIXELS, TITLE, read_picture

GAP = 0.08  # inches between images
LEGEND = 2.4  # inches beside the images
ROW = 0.21  # inches of a class in it
MOST_ROWS = 24
TINT = 0.55  # the colours' share, the rest is the image's
IGNORED = (0, 0, 0)  # the colour of pixels that do not count


@dataclass(frozen=True)
class SegmentedImage:
    """An image with the labels of its pixels.

    Attributes:
        picture: RGB, ``(H, W, 3)``, uint8.
        truth: ``(H, W)``, or None where it is not known; what is no class is ignored.
        predicted: ``(H, W)``; of a page of a data set, its own labels.
    """

    picture: np.ndarray
    truth: np.ndarray | None
    predicted: np.ndarray


def draw_segments(
    axes: Axes, picture: np.ndarray, labels: np.ndarray, colours: Sequence[Sequence[int]]
) -> None:
    """Draw an image tinted by class.

    Args:
        axes: Without ticks and frame.
        picture: RGB, ``(H, W, 3)``, uint8.
        labels: ``(H, W)``; those beyond the colours are ignored, and dark.
        colours: RGB of each class, 0 to 255.
    """
    table = np.array([*colours, IGNORED], np.uint8)
    tint = table[np.minimum(labels, len(colours))]
    axes.imshow(cv2.addWeighted(picture, 1 - TINT, tint, TINT, 0), interpolation='nearest')


def save_pairs(
    path: Path,
    images: Sequence[SegmentedImage],
    classes: Sequence[str],
    colours: Sequence[Sequence[int]],
    *,
    pairs: int = 1,
    panel: float = PANEL,
    dpi: float | None = None,
) -> None:
    """Draw images, each with its ground truth on the left and the prediction on the right, and one legend.

    Args:
        path: The PNG file.
        images: At least one; all with ground truth, or none: then ``predicted`` alone is drawn.
        classes: Their names.
        colours: RGB of each class, 0 to 255; there may be more.
        pairs: How many images a row holds.
        panel: Inches of an image's longer side.
        dpi: Pixels an inch; by default about as many as the images have.
    """
    titles = [] if images[0].truth is None else ['ground truth', 'prediction']
    colours = colours[: len(classes)]
    legend = _legend(images, classes, colours)
    longest = max(max(image.predicted.shape) for image in images)
    figure, panels = _panels(images, pairs, panel, len(legend))
    for axes, title in zip(panels[0], titles * pairs, strict=False):
        axes.set_title(title)
    for image, row in zip(images, panels.reshape(-1, len(titles) or 1), strict=False):
        if image.truth is not None:
            draw_segments(row[0], image.picture, image.truth, colours)
        draw_segments(row[-1], image.picture, image.predicted, colours)
    title = 'share of the pixels:\ntruth, prediction' if titles else None
    figure.legend(handles=legend, title=title, loc='upper right', frameon=False, fontsize=9)
    figure.savefig(path, format='png', dpi=dpi or min(max(longest, PIXELS[0]), PIXELS[1]) / panel)


def _panels(
    images: Sequence[SegmentedImage], pairs: int, panel: float, legend_rows: int
) -> tuple[Figure, np.ndarray]:
    """A figure with a place for each image, ``(rows, columns)``, and room at the right."""
    each = 1 if images[0].truth is None else 2
    rows, columns = -(-len(images) // pairs), each * pairs
    sides = np.array([image.predicted.shape for image in images])  # [N, 2]
    height, width = np.maximum((sides * panel / sides.max(axis=1, keepdims=True)).max(axis=0), LEAST)
    title = TITLE * (each > 1)
    across = columns * (width + GAP)
    stacked = rows * (height + GAP) - GAP + title
    total = max(stacked, (legend_rows + 3) * ROW)
    figure = Figure(figsize=(across + LEGEND, total))
    figure.subplots_adjust(
        left=0,
        right=(across - GAP) / (across + LEGEND),
        bottom=1 - stacked / total,
        top=1 - title / total,
        wspace=GAP / width,
        hspace=GAP / height,
    )
    panels = figure.subplots(rows, columns, squeeze=False)
    for axes in panels.flat:
        axes.set_axis_off()
    return figure, panels


def _legend(
    images: Sequence[SegmentedImage], classes: Sequence[str], colours: Sequence[Sequence[int]]
) -> list[Patch]:
    """The classes that occur, the most frequent first, with their shares of the pixels."""
    names = [*classes, 'ignored']
    maps = [[image.predicted for image in images]]
    if images[0].truth is not None:
        maps.insert(0, [image.truth for image in images])
    shares = np.stack([_shares(labels, len(classes)) for labels in maps])  # [1 or 2 maps, classes + 1]
    order = np.argsort(-shares.max(axis=0), kind='stable')[:MOST_ROWS]
    return [
        Patch(
            color=np.divide([*colours, IGNORED][place], 255),
            label=' '.join([escape_mathtext(names[place]), ', '.join(f'{s:.1%}' for s in shares[:, place])]),
        )
        for place in order
        if shares[:, place].any()
    ]


def _shares(maps: Sequence[np.ndarray], classes: int) -> np.ndarray:
    """Of each class, and of what is ignored, ``(classes + 1,)``."""
    counts = sum(np.bincount(np.minimum(labels, classes).ravel(), minlength=classes + 1) for labels in maps)
    return counts / counts.sum()


class SegmentPicturesHook(Hook):
    """Draws each image that is tested into a folder.

    Args:
        folder: Where the pictures go, under the images' own names.
        image_dir: What the names of images are relative to.
    """

    def __init__(self, folder: str, image_dir: str) -> None:
        self.folder = Path(folder)
        self.image_dir = image_dir

    def after_test_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Sequence[Any] | None = None
    ) -> None:
        """Draw a batch."""
        meta = runner.test_dataloader.dataset.metainfo
        for sample in outputs:
            path = self.folder / png_name(sample.img_path, self.image_dir)
            path.parent.mkdir(parents=True, exist_ok=True)
            truth = label_array(sample.gt_sem_seg.data) if 'gt_sem_seg' in sample else None
            image = SegmentedImage(
                read_picture(sample.img_path), truth, label_array(sample.pred_sem_seg.data)
            )
            save_pairs(path, [image], meta['classes'], meta['palette'])
