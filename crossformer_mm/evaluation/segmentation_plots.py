"""Pictures of a segmentation's evaluation: IoU a class, and which class is taken for which."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from ..utils.text import escape_mathtext
from .confusion_matrix import plot_matrix, row_shares


def plot_ious(ious: np.ndarray, names: Sequence[str], path: Path) -> None:
    """Draw the IoU of each class as a bar, the best on top, and their mean as a line.

    Args:
        ious: In percent, ``(classes,)``; NaN where a class does not occur, at the bottom.
        names: Of the classes.
        path: The picture to write.
    """
    order = np.argsort(np.nan_to_num(ious, nan=-1), kind='stable')
    known = ious[~np.isnan(ious)]
    figure = Figure(figsize=(8, 1.5 + 0.25 * len(names)), layout='constrained')
    axes = figure.subplots()
    bars = axes.barh(range(len(names)), np.nan_to_num(ious[order]), color='C0')
    axes.set_yticks(range(len(names)), [escape_mathtext(names[place]) for place in order])
    texts = ['does not occur' if value != value else f'{value:.1f}' for value in ious[order]]
    axes.bar_label(bars, texts, padding=3, fontsize=8)
    if known.size:
        axes.axvline(known.mean(), color='black', linestyle='--', label=f'mIoU {known.mean():.1f}')
        axes.legend(loc='lower right')
    axes.set(title='IoU of each class', xlabel='percent', xlim=(0, 108))
    axes.margins(y=0.01)
    axes.grid(axis='x', alpha=0.3)
    figure.savefig(path, dpi=100)


def plot_pixels(counts: np.ndarray, names: Sequence[str], path: Path) -> None:
    """Draw a confusion matrix of pixels, in percent of the row.

    Args:
        counts: ``(classes, classes)`` pixels, the true class by row.
        names: Of the classes.
        path: The picture to write.
    """
    shares = row_shares(counts)
    percents = np.rint(100 * shares).astype(int)
    texts = np.where(percents, percents.astype(str), '')
    plot_matrix(shares, texts, names, 'pixels, in percent of the true class', path)
