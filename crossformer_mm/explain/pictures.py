"""Pictures of explanations: maps over an image, and the tokens that a position attends to."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import PatchCollection
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from ..evaluation.pictures import fitting_dpi, image_grid, save_figure
from ..utils.text import escape_mathtext
from .attention import Attended

_PANEL = 4.0  # length of an image's longer side in inches
_BAR = (0.8, 2.0)  # width and height of the colour bar with its labels
_OPAQUE = 0.65  # of the strongest places
_MAPS, _WEIGHTS = 'jet', 'viridis'
_BOX = 'white'
_ZOOM = 3.0  # how much wider than its group a panel is, at least
_FILLED = 0.6  # of the distance of tokens that are not adjacent: the side of their squares
_DPI = 120


def save_maps(
    path: Path,
    picture: np.ndarray,
    title: str,
    maps: Mapping[str, np.ndarray],
    box: Sequence[float] | None = None,
    region: np.ndarray | None = None,
) -> None:
    """Draw an image with what is explained, and beside it each map over it.

    Args:
        path: The PNG file.
        picture: RGB, ``(H, W, 3)``, uint8.
        title: What is explained.
        maps: By their names: ``(H, W)``, at least 0; the largest value gets the end of the colours.
        box: Left, top, right and bottom of an object.
        region: Pixels of a class, ``(H, W)``, bool.
    """
    shapes = [picture.shape] * (1 + len(maps))
    figure, panels = image_grid(shapes, len(shapes), _PANEL, [escape_mathtext(title), *maps], _BAR)
    for axes in panels:
        axes.imshow(picture, interpolation='bilinear')
        if box is not None:
            left, top, right, bottom = box
            corner = (left - 0.5, top - 0.5)
            axes.add_patch(Rectangle(corner, right - left, bottom - top, fill=False, color=_BOX))
    if region is not None:
        panels[0].contour(region, [0.5], colors=_BOX, linewidths=1)
    colours = colormaps[_MAPS]
    for axes, values in zip(panels[1:], maps.values(), strict=True):
        shares = values / (values.max() or 1)
        overlay = colours(shares)
        overlay[..., 3] = _OPAQUE * shares**0.5
        axes.imshow(overlay, interpolation='bilinear')
    width = figure.get_size_inches()[0]
    place = figure.add_axes((1 - _BAR[0] / width, 0.1, 0.15 / width, 0.8))
    bar = ScalarMappable(Normalize(0, 1), _MAPS)
    figure.colorbar(bar, cax=place, label='share of the largest value')
    save_figure(figure, path, fitting_dpi(shapes, _PANEL))


def save_attention(
    path: Path, picture: np.ndarray, found: Sequence[Attended], position: tuple[float, float]
) -> None:
    """Draw the groups of a position over an image: a column for each stage, short distance attention on top.

    Args:
        path: The PNG file.
        picture: RGB, ``(H, W, 3)``, uint8, as the network gets it, without padding.
        found: The groups.
        position: Column and row in pixels.
    """
    columns, rows = max(one.stage for one in found), 1 + any(one.long_distance for one in found)
    sizes = [picture.shape[:2], *(np.multiply(one.size, one.stride) for one in found)]  # also with padding
    height, width = np.max(sizes, 0)
    inches = np.array((width, height)) * _PANEL / max(width, height)
    figure = Figure(figsize=inches.clip(1.5) * (columns, rows) + (1, 0.6 * rows), layout='constrained')
    panels = figure.subplots(rows, columns, squeeze=False)
    for axes in panels.flat:
        axes.set_axis_off()
    for one in found:
        _draw_group(panels[int(one.long_distance), one.stage - 1], picture, one, position)
    bar = ScalarMappable(Normalize(0, 1), _WEIGHTS)
    figure.colorbar(bar, ax=panels, shrink=0.6, aspect=40, pad=0.01, label='share of the largest weight')
    save_figure(figure, path, _DPI)


def _draw_group(axes: Axes, picture: np.ndarray, one: Attended, position: tuple[float, float]) -> None:
    height, width = picture.shape[:2]
    weights = one.weights.mean(0).numpy()
    corners = one.tokens.numpy()[:, ::-1] * one.stride  # (N, xy)
    side = one.stride * max(1, one.interval * _FILLED)
    axes.imshow(picture, extent=(0, width, height, 0), interpolation='bilinear')
    squares = [Rectangle(corner + (one.stride - side) / 2, side, side) for corner in corners]
    colours = colormaps[_WEIGHTS](weights / weights.max())
    axes.add_collection(PatchCollection(squares, facecolors=colours, alpha=_OPAQUE))
    axes.plot(*position, '+', color='red', markersize=12, markeredgewidth=2)
    whole = np.maximum((width, height), np.multiply(one.size[::-1], one.stride))  # with padding
    low, high = corners.min(0), corners.max(0) + one.stride
    size = whole * min(_ZOOM * ((high - low) / whole).max(), 1)
    left, top = ((low + high - size) / 2).clip(0, whole - size)
    axes.set(xlim=(left, left + size[0]), ylim=(top + size[1], top))
    kind = 'long' if one.long_distance else 'short'
    axes.set_title(
        f'stage {one.stage}, block {one.block}: {kind} distance\n'
        f'{one.group[0]}×{one.group[1]} tokens, interval {one.interval}, up to {weights.max():.3f}',
        fontsize=9,
    )
