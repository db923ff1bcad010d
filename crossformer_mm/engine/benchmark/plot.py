"""Pictures of what was measured."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .report import Record, growth, setting_name
from .timing import growth_exponent, spread

QUANTITIES = {'seconds': 'seconds', 'peak_bytes': 'peak memory, MB'}


def plot_comparison(records: Sequence[Record], path: Path) -> None:
    """Draw a comparison: growth with size where there are sizes enough, else a bar a network.

    Args:
        records: What :func:`~crossformer_mm.benchmark.compare` returned.
        path: The picture to write.
    """
    if growth(records):
        figure = Figure(figsize=(7, 5), layout='constrained')
        _draw_growth(figure.subplots(), records)
        figure.savefig(path, dpi=100)
        return
    measured = [found for record in records for found in record['subjects'].values()]
    keys = [key for key in QUANTITIES if all(key in found for found in measured)]
    figure, grid = _grid(len(keys), len(records))
    for row, key in zip(grid, keys, strict=True):
        for axes, record in zip(row, records, strict=True):
            _draw_bars(axes, record, key)
    figure.savefig(path, dpi=100)


def plot_sizes(records: Sequence[Record], path: Path) -> None:
    """Draw the time of a million pixels, at many sizes beside one.

    Args:
        records: What :func:`~crossformer_mm.benchmark.sizes.measure_sizes` returned.
        path: The picture to write.
    """
    figure, grid = _grid(1, len(records))
    for axes, record in zip(grid[0], records, strict=True):
        places = np.arange(len(record['subjects']))
        for shift, name, legend in ((0, 'many', 'many sizes'), (0.4, 'one', 'one size')):
            medians = [spread(found[name]).median for found in record['subjects'].values()]
            axes.bar(places + shift, medians, width=0.4, label=legend)
        axes.set_xticks(places + 0.2, list(record['subjects']))
        _finish(axes, record, 'seconds for a million pixels')
        axes.legend()
    figure.savefig(path, dpi=100)


def plot_operators(records: Sequence[Record], path: Path) -> None:
    """Draw the time by kind of operator, a bar a network.

    Args:
        records: What :func:`~crossformer_mm.benchmark.operators.measure_operators` returned.
        path: The picture to write.
    """
    figure, grid = _grid(1, len(records), width=5)
    for axes, record in zip(grid[0], records, strict=True):
        subjects = record['subjects']
        bottom = np.zeros(len(subjects))
        for kind in dict.fromkeys(kind for seconds in subjects.values() for kind in seconds):
            heights = np.array([seconds.get(kind, 0.0) for seconds in subjects.values()])
            axes.bar(list(subjects), heights, bottom=bottom, label=kind)
            bottom += heights
        _finish(axes, record, 'seconds')
        axes.legend(fontsize=7, loc='center left', bbox_to_anchor=(1, 0.5))
    figure.savefig(path, dpi=100)


def plot_pipeline(records: Sequence[Record], path: Path) -> None:
    """Draw images a second over worker processes, a line a config.

    Args:
        records: What :func:`~crossformer_mm.benchmark.pipeline.measure_pipeline` returned.
        path: The picture to write.
    """
    figure = Figure(figsize=(5, 3.5), layout='constrained')
    axes = figure.subplots()
    for record in records:
        rates = [found['images_per_second'] for found in record['workers'].values()]
        axes.plot(list(map(int, record['workers'])), rates, 'o-', label=record['config'])
    axes.set(xlabel='worker processes', ylabel='images/s', ylim=(0, None))
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=100)


def _grid(rows: int, columns: int, width: float = 4) -> tuple[Figure, np.ndarray]:
    figure = Figure(figsize=(max(width * columns, 5), 3.5 * rows), layout='constrained')
    return figure, figure.subplots(rows, columns, squeeze=False)


def _draw_bars(axes: Axes, record: Record, key: str) -> None:
    """Medians with quartiles, or peaks."""
    for i, (label, found) in enumerate(record['subjects'].items()):
        if key == 'seconds':
            seen = spread(found[key])
            low, high = seen.median - seen.lower_quartile, seen.upper_quartile - seen.median
            axes.bar(label, seen.median, yerr=[[low], [high]], capsize=4, color=f'C{i}')
        else:
            axes.bar(label, found[key] / 1e6, color=f'C{i}')
    _finish(axes, record, QUANTITIES[key])


def _finish(axes: Axes, record: Record, unit: str) -> None:
    axes.set(ylabel=unit)
    axes.set_title(setting_name(record['setting']), fontsize=9)
    axes.tick_params(axis='x', rotation=20)
    axes.grid(axis='y', alpha=0.3)


def _draw_growth(axes: Axes, records: Sequence[Record]) -> None:
    for (label, setting), (pixels, seconds) in growth(records).items():
        exponent = growth_exponent(pixels, seconds)
        axes.loglog(pixels, seconds, 'o-', label=f'{label}, {setting}: pixels to the {exponent:.2f}')
    axes.set(xlabel='pixels', ylabel='seconds')
    axes.grid(alpha=0.3, which='both')
    axes.legend()
