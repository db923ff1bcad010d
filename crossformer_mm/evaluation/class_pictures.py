"""Pictures of classified images: the best classes beside each, and a sheet of mistakes."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..utils.text import cut, escape_mathtext, printable
from .pictures import (
    PANEL,
    SHEET_DPI,
    SMALL_PANEL,
    fitting_dpi,
    image_grid,
    read_picture,
    save_figure,
)

_COLUMNS = 6  # images per row of a sheet
_TILE = round(SMALL_PANEL * SHEET_DPI)  # pixels of an image's side on a sheet
_CAPTION = 44  # pixels below it
_LETTERS = 34  # of a class name in a caption
_BARS = (3.6, 2.2)  # width and height in inches of the bars beside an image
_TRUE, _PREDICTED = 'C2', 'C0'


class Mistake(NamedTuple):
    """An image of a wrongly predicted class."""

    path: str
    truth: str
    predicted: str
    score: float


def save_mistakes(path: Path, mistakes: Sequence[Mistake], ignore_exif: bool = False) -> None:
    """Draw a sheet of wrongly classified images with their true and predicted classes.

    Args:
        path: The PNG file.
        mistakes: The images; if there are none, the sheet says so.
        ignore_exif: Do not turn images as their EXIF data says.
    """
    pictures = (read_picture(mistake.path, ignore_exif) for mistake in mistakes)
    captions = [
        f'{short_class(mistake.truth)}\n→ {short_class(mistake.predicted)} {mistake.score:.2f}'
        for mistake in mistakes
    ]
    save_sheet(path, pictures, captions or ['no mistakes'])


def save_sheet(path: Path, pictures: Iterable[np.ndarray], captions: Sequence[str]) -> None:
    """Draw a sheet of images with captions.

    Args:
        path: The PNG file.
        pictures: RGB, ``(H, W, 3)``, uint8; if there are none, the sheet has only the first caption.
        captions: One or two lines for each, with names from :func:`short_class`.
    """
    tiles = [_tile(picture) for picture in pictures] or [np.full((_CAPTION, _TILE, 3), 255, np.uint8)]
    shapes = [tile.shape for tile in tiles]
    figure, panels = image_grid(shapes, min(_COLUMNS, len(tiles)), max(shapes[0]) / SHEET_DPI)
    for axes, tile, text in zip(panels, tiles, captions, strict=False):
        axes.imshow(tile, interpolation='nearest')
        axes.text(3, len(tile) - _CAPTION + 5, text, fontsize=8, va='top', linespacing=1.1)
    save_figure(figure, path, SHEET_DPI)


def short_class(name: str) -> str:
    """The name of a class, cut to what fits below an image, and escaped for matplotlib."""
    return escape_mathtext(cut(printable(name), _LETTERS))


def _tile(picture: np.ndarray) -> np.ndarray:
    """An image resized to fit a square of :data:`_TILE` pixels, on white, with space for a caption."""
    height, width = (max(round(side * _TILE / max(picture.shape[:2])), 1) for side in picture.shape[:2])
    small = cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA)
    top, left = _TILE - height, (_TILE - width) // 2
    tile = np.full((_TILE + _CAPTION, _TILE, 3), 255, np.uint8)
    tile[top : top + height, left : left + width] = small
    return tile


def save_classified(path: Path, picture: np.ndarray, record: Mapping[str, Any]) -> None:
    """Draw an image with its best classes and their scores beside it.

    Args:
        path: The PNG file.
        picture: RGB, ``(H, W, 3)``, uint8.
        record: From :func:`crossformer_mm.evaluation.records.class_record`.
    """
    save_figure(classified_figure(picture, record), path, fitting_dpi([picture.shape]))


def classified_figure(
    picture: np.ndarray, record: Mapping[str, Any], truth: int | None = None, name: str = ''
) -> Figure:
    """Draw an image with its best classes and their scores beside it, in a figure.

    Args:
        picture: RGB, ``(H, W, 3)``, uint8.
        record: From :func:`crossformer_mm.evaluation.records.class_record`.
        truth: The true label, if it is known.
        name: Its name.
    """
    figure, panels = image_grid([picture.shape], panel=PANEL, legend=_BARS)
    panels[0].imshow(picture, interpolation='bilinear')
    width, height = figure.get_size_inches()
    across, down = _BARS
    axes = figure.add_axes((1 - across / width, 1 - down / height, across / width, down / height))
    title = f'ground truth: {short_class(name)}' if truth is not None else ''
    _draw_bars(axes, record['top'], truth, title)
    return figure


def _draw_bars(axes: Axes, top: Sequence[Mapping[str, Any]], truth: int | None, title: str) -> None:
    axes.set_axis_off()
    axes.set(xlim=(-0.03, 1.03), ylim=(5.5, -1.2))
    axes.text(0, -0.8, title or 'score', fontsize=9, va='center', color=_TRUE if title else 'black')
    for row, best in enumerate(top):
        colour = _TRUE if best['label'] == truth else _PREDICTED
        axes.barh(row, 1, height=0.8, color='0.94')
        axes.barh(row, best['score'], height=0.8, color=colour, alpha=0.45)
        axes.text(0.02, row, short_class(best['name']), va='center', fontsize=9)
        axes.text(0.98, row, f'{best["score"]:.2f}', va='center', ha='right', fontsize=9)
    if not top:
        axes.text(0, 0, 'no valid score (NaN)', va='center', fontsize=9)
