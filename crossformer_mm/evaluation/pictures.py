"""Lay out images in a figure, large enough to read for images of any size."""

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ..data.images import read_image
from ..utils.outputs import write_output

PANEL = 6.5  # length of an image's longer side in inches; lines and letters have a fixed size
SMALL_PANEL = 2.6  # the same, on a sheet of many images
SHEET_DPI = 100
_PIXELS = (800, 2000)  # smallest and largest length of an image's longer side
_LEAST = 0.5  # smallest length of a side in inches, for thin images
_GAP = 0.08  # inches between images
_TITLE = 0.3  # inches for a title above the images


def read_picture(path: str | Path, ignore_exif: bool = False) -> np.ndarray:
    """Read an image to draw on, as :func:`read_image` does, but as RGB."""
    return cv2.cvtColor(read_image(path, ignore_exif), cv2.COLOR_BGR2RGB)


def image_grid(
    shapes: Sequence[Sequence[int]],
    columns: int = 1,
    panel: float = PANEL,
    titles: Sequence[str] = (),
    legend: tuple[float, float] | None = None,
) -> tuple[Figure, Sequence[Axes]]:
    """Make a figure with axes for each image.

    Args:
        shapes: Height and width of each image.
        columns: Number of images per row.
        panel: Length of an image's longer side in inches.
        titles: Titles of the columns; fewer are repeated.
        legend: Width and height in inches of the space for a legend at the right.

    Returns:
        The figure, and the axes row by row, without ticks and frame.
    """
    sides = np.array([shape[:2] for shape in shapes], float)  # [N, 2]
    height, width = np.maximum((sides * panel / sides.max(1, keepdims=True)).max(0), _LEAST)
    rows = -(-len(shapes) // columns)
    title = _TITLE * bool(titles)
    across = columns * (width + _GAP) - _GAP
    down = rows * (height + _GAP) - _GAP + title
    size = np.maximum((across, down), (across + _GAP + legend[0], legend[1]) if legend else 0)
    figure = Figure(figsize=size)
    figure.subplots_adjust(
        left=0,
        right=across / size[0],
        bottom=1 - down / size[1],
        top=1 - title / size[1],
        wspace=_GAP / width,
        hspace=_GAP / height,
    )
    panels = figure.subplots(rows, columns, squeeze=False)
    for axes in panels.flat:
        axes.set_axis_off()
    for axes, text in zip(panels[0], [*titles] * columns, strict=False):
        axes.set_title(text)
    return figure, panels.ravel()


def show(axes: Axes, picture: np.ndarray, interpolation: str) -> None:
    """Show an image, RGB, in its own pixels; a large one is shrunk first, which takes less memory.

    Args:
        axes: Where to show it.
        picture: ``(H, W, 3)``, uint8.
        interpolation: Matplotlib's name of how pixels are enlarged.
    """
    height, width = picture.shape[:2]
    factor = _PIXELS[1] / max(height, width)
    if factor < 1:
        size = [max(round(side * factor), 1) for side in (width, height)]
        picture = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
    axes.imshow(picture, interpolation=interpolation, extent=(-0.5, width - 0.5, height - 0.5, -0.5))


def save_figure(figure: Figure, path: Path, dpi: float) -> None:
    """Write a figure as a PNG file, atomically, and list it as an output.

    Args:
        figure: The figure.
        path: The file; it is replaced if it exists, and missing folders are created.
        dpi: Dots per inch.

    Raises:
        UserError: It cannot be written.
    """
    write_output(path, lambda part: figure.savefig(part, format='png', dpi=dpi))


def figure_array(figure: Figure) -> np.ndarray:
    """Draw a figure into an array, RGB, ``(H, W, 3)``, uint8."""
    figure.set_dpi(SHEET_DPI)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.array(canvas.buffer_rgba())[..., :3]


def fitting_dpi(shapes: Sequence[Sequence[int]], panel: float = PANEL) -> float:
    """Dots per inch for about the resolution of the images, within limits.

    Args:
        shapes: Height and width of each image.
        panel: Length of an image's longer side in inches.
    """
    longest = max(max(shape[:2]) for shape in shapes)
    return float(np.clip(longest, *_PIXELS)) / panel
