"""Pictures of what was measured."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .report import growth, setting_name
from .timing import growth_exponent, spread

Record = dict[str, Any]

BARS = {'seconds': 'seconds', 'peak_bytes': 'peak memory, MB'}


def plot_comparison(records: Sequence[Record], path: Path) -> None:
    """Draw a comparison: growth with size where there are sizes enough, else a bar a network.

    Args:
        records: What :func:`~crossformer_mm.benchmark.compare` returned.
        path: The picture to write.
    """
    if growth(records):
        figure = Figure(figsize=(7, 5), layout='constrained')
        _draw_growth(figure.subplots(), records)
    else:
        panels = list(_panels(records))
        figure = Figure(figsize=(max(4 * len(panels), 5), 3.5), layout='constrained')
        for axes, (record, key) in zip(
            figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True
        ):
            _draw_bars(axes, record, key)
    figure.savefig(path, dpi=100)


def _panels(records: Iterable[Record]) -> Iterable[tuple[Record, str]]:
    for record in records:
        for key in BARS:
            if any(found.get(key) for found in record['subjects'].values()):
                yield record, key


def _draw_bars(axes: Axes, record: Record, key: str) -> None:
    """Medians with quartiles, or peaks."""
    for i, (label, found) in enumerate(record['subjects'].items()):
        if key == 'seconds':
            seen = spread(found[key])
            low, high = seen.median - seen.lower_quartile, seen.upper_quartile - seen.median
            axes.bar(label, seen.median, yerr=[[low], [high]], capsize=4, color=f'C{i}')
        else:
            axes.bar(label, found[key] / 1e6, color=f'C{i}')
    axes.set(title=setting_name(record['setting']), ylabel=BARS[key])
    axes.title.set_fontsize(9)
    axes.tick_params(axis='x', rotation=20)
    axes.grid(axis='y', alpha=0.3)


def _draw_growth(axes: Axes, records: Sequence[Record]) -> None:
    for (label, setting), (pixels, seconds) in growth(records).items():
        exponent = growth_exponent(pixels, seconds)
        axes.loglog(pixels, seconds, 'o-', label=f'{label}, {setting}: pixels to the {exponent:.2f}')
    axes.set(xlabel='pixels', ylabel='seconds')
    axes.grid(alpha=0.3, which='both')
    axes.legend()
