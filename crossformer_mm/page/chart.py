"""Charts of lines for a page, as SVG in the page's own colours, light or dark."""

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from matplotlib.ticker import MaxNLocator

from .html import COLOURS, Html, element

_WIDTH, _HEIGHT = 480, 270
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 10, 8, 38
_POINTS = 400  # of a line; of more, means are drawn
Point = tuple[float, float]


class Line(NamedTuple):
    """A line of a chart."""

    label: str
    points: Sequence[Point]
    colour: int = 0
    dashed: bool = False
    dots: bool = False
    """Whether to mark the points."""


def line_chart(
    title: str, x_label: str, lines: Sequence[Line], limits: tuple[float | None, float | None] = (None, None)
) -> Html:
    """Draw lines over a common axis; points that are not finite leave a gap.

    Args:
        title: The title.
        x_label: What the horizontal axis counts.
        lines: The lines; without any finite point, nothing is drawn.
        limits: The lower and upper end of the vertical axis; None for the smallest or largest value.
    """
    lines = [line._replace(points=_thin(line.points)) for line in lines]
    known = [point for line in lines for point in line.points if all(map(math.isfinite, point))]
    if not known:
        return Html()
    frame = _frame(known, limits)
    drawn = [part for line in lines for part in _draw(line, frame)]
    svg = element(
        'svg', *_axes(frame, x_label), *drawn, viewBox=f'0 0 {_WIDTH} {_HEIGHT}', role='img', aria_label=title
    )
    return element('figure', element('h3', title), svg, element('figcaption', *_legend(lines)))


class _Frame(NamedTuple):
    """The ends of the axes."""

    left: float
    right: float
    low: float
    high: float

    def place(self, x: float, y: float) -> Point:
        """Where a point is in the picture; one above or below the frame is on its edge."""
        across = (x - self.left) / (self.right - self.left)
        up = (min(max(y, self.low), self.high) - self.low) / (self.high - self.low)
        return (
            _LEFT + across * (_WIDTH - _LEFT - _RIGHT),
            _HEIGHT - _BOTTOM - up * (_HEIGHT - _TOP - _BOTTOM),
        )


def _frame(points: Sequence[Point], limits: tuple[float | None, float | None]) -> _Frame:
    (left, right), (low, high) = ((min(values), max(values)) for values in zip(*points, strict=True))
    low, high = (low if limits[0] is None else limits[0]), (high if limits[1] is None else limits[1])
    ticks = MaxNLocator(5).tick_values(low, high if high > low else low + (abs(low) or 1) / 10)
    low, high = (tick if limit is None else limit for tick, limit in zip(ticks[[0, -1]], limits, strict=True))
    return _Frame(left, right if right > left else left + 1, low, high)


def _axes(frame: _Frame, x_label: str) -> Iterable[Html]:
    base, end = _HEIGHT - _BOTTOM, _WIDTH - _RIGHT
    for y in MaxNLocator(5).tick_values(frame.low, frame.high):
        if frame.low <= y <= frame.high:
            height = frame.place(frame.left, y)[1]
            yield element('line', x1=_LEFT, x2=end, y1=_f(height), y2=_f(height), class_='grid')
            yield element('text', _tick(y), x=_LEFT - 6, y=_f(height + 4), text_anchor='end')
    whole = frame.right - frame.left >= 2 or frame.left >= 1  # steps count from 1, recall from 0
    for x in MaxNLocator(6, integer=whole).tick_values(frame.left, frame.right):
        if frame.left <= x <= frame.right:
            across = frame.place(x, frame.low)[0]
            yield element('line', x1=_f(across), x2=_f(across), y1=base, y2=base + 4, class_='axis')
            yield element('text', f'{x:g}', x=_f(across), y=base + 17, text_anchor='middle')
    yield element('line', x1=_LEFT, x2=end, y1=base, y2=base, class_='axis')
    yield element('text', x_label, x=(_WIDTH + _LEFT) / 2, y=_HEIGHT - 5, text_anchor='middle')


def _tick(value: float) -> str:
    """A number in the room left of the axis."""
    text = f'{value:.4g}'
    return (text if len(text) < 7 else f'{value:.1e}').replace('e-0', 'e-').replace('e+0', 'e')


def _legend(lines: Iterable[Line]) -> list[Html]:
    """The stroke and the label of each line."""
    keys = []
    for line in lines:
        if line.label:
            stroke = element('polyline', points='0,4 22,4', class_=_stroke(line))
            keys.append(element('span', element('svg', stroke, viewBox='0 0 22 8'), line.label, class_='key'))
    return keys


def _thin(points: Sequence[Point]) -> list[Point]:
    """The means of neighbouring points, so that there are not too many."""
    size = -(-len(points) // _POINTS) or 1
    groups = (points[start : start + size] for start in range(0, len(points), size))
    return [tuple(sum(values) / len(values) for values in zip(*group, strict=True)) for group in groups]


def _draw(line: Line, frame: _Frame) -> list[Html]:
    colour = line.colour % COLOURS
    parts = []
    run: list[Point] = []
    for point in [*line.points, (math.nan, math.nan)]:
        if all(map(math.isfinite, point)):
            run.append(frame.place(*point))
            continue
        if len(run) > 1:
            path = ' '.join(f'{_f(x)},{_f(y)}' for x, y in run)
            parts.append(element('polyline', points=path, class_=_stroke(line)))
        marked = run if line.dots or len(run) == 1 else []
        parts += [element('circle', cx=_f(x), cy=_f(y), r=2.5, class_=f'f{colour}') for x, y in marked]
        run = []
    return parts


def _stroke(line: Line) -> str:
    return f'line c{line.colour % COLOURS}{" dash" * line.dashed}'


def _f(value: float) -> str:
    return f'{value:.1f}'
