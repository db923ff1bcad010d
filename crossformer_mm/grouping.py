"""Which tokens attend to each other: the groups of short and long distance attention (LSDA).

Pure functions of a map's size. There are two layouts of the same groups:

- **exact** (:func:`exact_groups`): a permutation of the map's own tokens, group after group. Groups at the
  bottom and right edges are smaller than the others, and nothing is padded.
- **padded** (:func:`partition`, :func:`unpartition`, :func:`real_tokens`): the papers' layout. The map is
  padded until every group is full, and attention has to mask the padding. Its shapes are plain arithmetic on
  H and W, so a tracer can keep both symbolic.

Letters: B batch, H W map height and width, C channels, G group size, I interval, N tokens of one group. With
I = 1 the groups are short distance attention's windows; with I > 1 long distance attention's, in which a
group samples a macro-window of (G·I)×(G·I) tokens every I rows and columns (CrossFormer, section 3.2).
"""

from collections import defaultdict
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch.nn.functional as F
from torch import Tensor


class Run(NamedTuple):
    """Neighbours in the exact layout: ``count`` groups in a row, each of ``rows`` × ``columns`` tokens."""

    count: int
    rows: int
    columns: int


class ExactGroups(NamedTuple):
    """The exact layout of a batch of (H, W) maps.

    Attributes:
        order: [B·H·W] the token of the flattened maps that stands at each place of the layout.
        inverse: [B·H·W] the place in the layout of each token of the flattened maps.
        runs: Groups of one shape stand together; at most nine shapes occur.
    """

    order: np.ndarray
    inverse: np.ndarray
    runs: tuple[Run, ...]


def axis_groups(length: int, group_size: int, interval: int) -> list[np.ndarray]:
    """Split the positions of one axis into groups.

    Args:
        length: Positions on the axis, at least 1.
        group_size: G, the positions of a full group.
        interval: I, the step from a group's position to its next.

    Returns:
        One array (groups, positions of a group) for each number of positions that a group can have here: G
        in full macro-windows; in the rest at the end of the axis, up to two smaller numbers one apart.
    """
    groups: dict[tuple[int, int], list[int]] = defaultdict(list)
    for position in range(length):
        groups[position // (group_size * interval), position % interval].append(position)
    by_length: dict[int, list[list[int]]] = defaultdict(list)
    for group in groups.values():
        by_length[len(group)].append(group)
    return [np.array(same_length) for same_length in by_length.values()]


@lru_cache(maxsize=64)
def exact_groups(batch: int, height: int, width: int, group_size: int, interval: int) -> ExactGroups:
    """Lay out the tokens of a batch of maps group after group, with no padding.

    Args:
        batch: B, maps in the batch.
        height: H, rows of the map.
        width: W, columns of the map.
        group_size: G.
        interval: I; 1 gives short distance attention's windows.

    Returns:
        The layout. It is cached, as arrays that nothing writes to, and is a function of the arguments alone.
    """
    images = np.arange(batch).reshape(-1, 1, 1, 1, 1) * (height * width)
    runs, tokens = [], []
    for rows in axis_groups(height, group_size, interval):
        for columns in axis_groups(width, group_size, interval):
            # (B, 1, 1, 1, 1), (m, 1, R, 1) and (n, 1, S) → (B, m row groups, n column groups, R, S)
            run = images + rows[:, None, :, None] * width + columns[:, None, :]
            tokens.append(run.ravel())
            runs.append(Run(batch * len(rows) * len(columns), rows.shape[1], columns.shape[1]))
    order = np.concatenate(tokens)
    inverse = np.empty_like(order)
    inverse[order] = np.arange(len(order))
    return ExactGroups(order, inverse, tuple(runs))


def partition(x: Tensor, group_size: int, interval: int) -> Tensor:
    """Pad a map at the bottom and right, and cut it into full groups.

    Args:
        x: (B, H, W, C).
        group_size: G.
        interval: I.

    Returns:
        (B, groups, G·G, C), with zeros in the place of padding.
    """
    B, H, W, C = x.shape
    G, I = group_size, interval
    x = F.pad(x, (0, 0, 0, -W % (G * I), 0, -H % (G * I)))
    m, n = x.shape[1] // (G * I), x.shape[2] // (G * I)
    # (B, m·G·I, n·G·I, C) → (B, m, G, I, n, G, I, C) → (B, m, n, I, I, G, G, C) → (B, m·n·I·I, G·G, C)
    x = x.view(B, m, G, I, n, G, I, C).permute(0, 1, 4, 3, 6, 2, 5, 7)
    return x.reshape(B, m * n * I * I, G * G, C)


def unpartition(groups: Tensor, group_size: int, interval: int, height: int, width: int) -> Tensor:
    """Undo :func:`partition`: put the tokens back in the map and cut the padding off.

    Args:
        groups: (B, groups, G·G, C).
        group_size: G.
        interval: I.
        height: H of the map before padding.
        width: W of the map before padding.

    Returns:
        (B, H, W, C).
    """
    B, _, _, C = groups.shape
    G, I = group_size, interval
    m, n = -(-height // (G * I)), -(-width // (G * I))
    # (B, m·n·I·I, G·G, C) → (B, m, n, I, I, G, G, C) → (B, m, G, I, n, G, I, C) → (B, m·G·I, n·G·I, C)
    x = groups.view(B, m, n, I, I, G, G, C).permute(0, 1, 5, 3, 2, 6, 4, 7)
    return x.reshape(B, m * G * I, n * G * I, C)[:, :height, :width]


def real_tokens(x: Tensor, group_size: int, interval: int) -> Tensor:
    """Tell :func:`partition`'s real tokens from its padding.

    Args:
        x: (B, H, W, C), the map that is partitioned.
        group_size: G.
        interval: I.

    Returns:
        (groups, G·G) of booleans, False where a token is padding.
    """
    ones = x.new_ones(1, x.shape[1], x.shape[2], 1)
    return partition(ones, group_size, interval)[0, :, :, 0] > 0
