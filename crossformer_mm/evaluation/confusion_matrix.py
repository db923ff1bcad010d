"""A confusion matrix as a picture, of objects or of pixels."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from ..utils.text import escape_mathtext

MANY = 25  # classes; beyond, cells and letters are smaller


def row_shares(counts: np.ndarray) -> np.ndarray:
    """What each entry is of its row.

    Args:
        counts: ``(N, N)``, the truth by row.

    Returns:
        Shares, ``(N, N)``: they add up to 1 in each row, or to 0 where it counts nothing.
    """
    return counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)


def plot_matrix(shares: np.ndarray, texts: np.ndarray, labels: Sequence[str], title: str, path: Path) -> None:
    """Draw a confusion matrix.

    Args:
        shares: What :func:`row_shares` gives; the colours.
        texts: ``(N, N)`` strings to write into the cells; an empty one leaves its cell empty.
        labels: Of rows and columns.
        title: Above it.
        path: The picture to write.
    """
    labels, many = [escape_mathtext(label) for label in labels], len(labels) > MANY
    side = 4 + len(labels) * (0.25 if many else 0.6)  # inches
    figure = Figure(figsize=(side + 1, side), layout='constrained')
    axes = figure.subplots()
    image = axes.imshow(shares, cmap='Blues', vmin=0, vmax=1)
    for row, column in np.argwhere(texts != ''):
        colour = 'white' if shares[row, column] > 0.5 else 'black'
        text = {'ha': 'center', 'va': 'center', 'color': colour, 'fontsize': 6 if many else 10}
        axes.text(column, row, texts[row, column], **text)
    axes.set(title=title, xlabel='predicted', ylabel='ground truth')
    size = 7 if many else 10
    axes.set_xticks(range(len(labels)), labels, rotation=90 if many else 45, fontsize=size)
    axes.set_yticks(range(len(labels)), labels, fontsize=size)
    axes.set_xticks(np.arange(len(labels)) + 0.5, minor=True)
    axes.set_yticks(np.arange(len(labels)) + 0.5, minor=True)
    axes.grid(which='minor', color='0.9', linewidth=0.5)
    axes.tick_params(which='minor', length=0)
    figure.colorbar(image, shrink=0.6, aspect=40, label='share of the row')
    figure.savefig(path, dpi=100)
