"""Which tokens attend to each other: the groups of short and long distance attention (LSDA).

Pure functions of a map's size. Groups at the bottom and right edges of a map hold fewer tokens than the
others, so that nothing is padded: a group of the papers' padded layout, less its padding, which real tokens
never attend to.

Letters: B batch, H W map height and width, C channels, G group size, I interval, N tokens of one group. With
I = 1 the groups are short distance attention's windows; with I > 1 long distance attention's, in which a
group samples a macro-window of (G·I)×(G·I) tokens every I rows and columns (CrossFormer, section 3.2).
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np


class Run(NamedTuple):
    """Groups of one shape that stand together: ``count`` of them, each of ``rows`` × ``columns`` tokens."""

    count: int
    rows: int
    columns: int

    @property
    def tokens(self) -> int:
        """N, the tokens of one group."""
        return self.rows * self.columns

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of one group."""
        return self.rows, self.columns


class Groups(NamedTuple):
    """The tokens of a batch of (H, W) maps, laid out group after group.

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
def find_groups(batch: int, height: int, width: int, group_size: int, interval: int) -> Groups:
    """Lay out the tokens of a batch of maps group after group, with no padding.

    Args:
        batch: B, maps in the batch.
        height: H, rows of the map.
        width: W, columns of the map.
        group_size: G.
        interval: I; 1 gives short distance attention's windows.

    Returns:
        The layout, a function of the arguments alone. It is cached: nothing may write to its arrays.
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
    return Groups(order, inverse, tuple(runs))


def split_runs(runs: Sequence[Run], tokens: int) -> Iterator[list[Run]]:
    """Cut runs into pieces of whole groups.

    Args:
        runs: The groups, in the order of the layout.
        tokens: How many a piece holds at most; a piece of a single group may hold more.

    Yields:
        The runs of each piece.
    """
    piece, room = [], tokens
    for run in runs:
        left = run.count
        while left:
            count = min(left, max(room // run.tokens, 0 if piece else 1))
            if count:
                piece.append(run._replace(count=count))
                room -= count * run.tokens
                left -= count
            if left:
                yield piece
                piece, room = [], tokens
    if piece:
        yield piece


@lru_cache(maxsize=64)
def offset_index(rows: int, columns: int, table_rows: int, table_columns: int) -> np.ndarray:
    """Where a table of offsets holds those of the pairs of tokens of a group.

    Args:
        rows: R, rows of the group.
        columns: S, columns of the group.
        table_rows: Rows of the table, odd and at least 2R − 1; the middle one is of the row offset 0.
        table_columns: Columns of the table, alike.

    Returns:
        [N·N] places in the flattened table, N = R·S: for the tokens i and j of the group, that of the offset
        (row i − row j, column i − column j) stands at i·N + j. Cached, like :func:`find_groups`.
    """
    row, column = np.divmod(np.arange(rows * columns), columns)
    row_offset = row[:, None] - row + table_rows // 2
    column_offset = column[:, None] - column + table_columns // 2
    return (row_offset * table_columns + column_offset).ravel()
