"""Which tokens attend to each other: the groups of short and long distance attention (LSDA).

Notation: B batch, H W map height and width, C channels, G group size, I interval, N tokens of one group,
T = B·H·W tokens of a batch. In programs for batches of any size, each map is grouped by itself: L = B lists
of T = H·W tokens instead of one, L = 1.

All groups follow one rule on each axis of the map: cut the axis into windows of ``span`` tokens, and group
the tokens of a window whose positions are equal modulo I. Short distance attention has span G and I = 1. Long
distance attention (CrossFormer, section 3.2) has I > 1 and two published layouts: ``'map'``, where the window
is the whole axis, and ``'window'``, where it is G·I tokens.

Nothing is padded: groups at the bottom and right edges have fewer tokens than the others. They equal the
groups of the papers' padded layout, because no token attends to padding.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from ..compat import is_ordinary, is_transformed, unseen

LAYOUTS = ('map', 'window')  # of long distance attention
LONG_DISTANCE = (*LAYOUTS, 'none')


class Grouping(NamedTuple):
    """How a map is divided into groups.

    Attributes:
        span: Tokens of a window on each axis; None for the whole axis.
        interval: I.
        rows: The largest number of rows of a group.
        columns: The largest number of columns of a group.
    """

    span: int | None
    interval: int
    rows: int
    columns: int


@dataclass(frozen=True)
class GroupRule:
    """How a block groups the tokens of maps of any size.

    Attributes:
        group_size: G.
        interval: I of long distance attention.
        long_distance: Whether the block has long distance attention, or short.
        layout: ``'map'`` or ``'window'``; ``'none'`` if the network has only short distance attention.
        adaptive: In layout ``'window'``, take I from each map instead: ⌈max(H, W) / G⌉.
    """

    group_size: int
    interval: int
    long_distance: bool
    layout: str = 'map'
    adaptive: bool = False

    def __call__(self, H: int, W: int) -> Grouping:
        """The grouping of a map of H × W tokens."""
        G, I = self.group_size, self.interval
        side = min(H, W)
        if side <= G:  # small maps: each layout has one rule for all blocks
            return Grouping(None, 1, H, W) if self.layout == 'window' else Grouping(side, 1, side, side)
        if not self.long_distance:
            return Grouping(G, 1, G, G)
        if self.layout == 'map':
            return Grouping(None, I, -(-H // I), -(-W // I))
        I = -(-max(H, W) // G) if self.adaptive else I
        return Grouping(G * I, I, G, G)


class GroupBlock(NamedTuple):
    """Consecutive groups of one shape: ``count`` groups of ``rows`` × ``columns`` tokens."""

    count: int
    rows: int
    columns: int

    @property
    def tokens(self) -> int:
        """N, the number of tokens per group."""
        return self.rows * self.columns


class Groups(NamedTuple):
    """The tokens of a batch of maps, ordered group by group.

    Attributes:
        order: (T), int64: for each index in the new order, the token's index in the flattened maps.
        inverse: (T), int64: for each token of the flattened maps, its index in the new order.
        blocks: The groups in this order, of at most nine shapes.
    """

    order: Tensor
    inverse: Tensor
    blocks: tuple[GroupBlock, ...]


def find_groups(x: Tensor, B: int, H: int, W: int, span: int | None, interval: int) -> Groups:
    """Order the tokens of a batch of maps group by group.

    Args:
        x: Any tensor on the device for the result.
        B: Maps in the batch.
        H: Rows of a map.
        W: Columns of a map.
        span: Tokens of a window on each axis; None for the whole axis.
        interval: I.

    Returns:
        The order. It depends only on sizes and device and is cached, so that a second call with the same size
        copies nothing to the device. Do not write to its tensors.
    """
    if is_ordinary(x):
        return _cached_groups(x.device, B, H, W, span, interval)
    return _make_groups(x.device, B, H, W, span, interval)  # tensors of a compiler or transform


@lru_cache(maxsize=128)
def _cached_groups(device: torch.device, *size: int | None) -> Groups:
    with torch.inference_mode(False), unseen():  # for later calls in any mode
        return _make_groups(device, *size)


def _make_groups(device: torch.device, B: int, H: int, W: int, span: int | None, interval: int) -> Groups:
    images = torch.arange(B, device=device).view(-1, 1, 1, 1, 1) * (H * W)
    blocks, tokens = [], []
    columns_of_map = list(axis_groups(W, span, interval, device))
    for rows in axis_groups(H, span, interval, device):
        for columns in columns_of_map:
            (m, R), (n, S) = rows.shape, columns.shape
            # (B, 1, 1, 1, 1), (m, 1, R, 1) and (n, 1, S) → (B, m row groups, n column groups, R, S)
            indices = images + rows[:, None, :, None] * W + columns[:, None, :]
            tokens.append(indices.flatten())
            blocks.append(GroupBlock(B * m * n, R, S))
    order = torch.cat(tokens)
    inverse = torch.empty_like(order).index_copy_(0, order, torch.arange(B * H * W, device=device))
    return Groups(order, inverse, tuple(blocks))


def axis_groups(
    length: int, span: int | None, interval: int, device: torch.device | None = None
) -> Iterator[Tensor]:
    """Split the positions on one axis into groups.

    Args:
        length: Positions on the axis, at least 1.
        span: Positions of a window; None for the whole axis.
        interval: I, the step between positions of a group.
        device: Device of the tensors.

    Yields:
        (groups, positions per group), int64: first the groups of full windows, then those of the remainder at
        the end of the axis. If I does not divide a window, its first groups have one more position.
    """
    if span is None or span >= length:
        windows = [(0, 1, length)]
    else:
        windows = [(0, length // span, span), (length - length % span, 1, length % span)]
    for start, count, size in windows:
        longer = size % interval
        for first, last, positions in (
            (0, longer, size // interval + 1),
            (longer, interval, size // interval),
        ):
            if first < last and positions:
                offsets = torch.arange(count, device=device)[:, None, None] * size + start
                residues = torch.arange(first, last, device=device)[:, None]
                steps = torch.arange(positions, device=device) * interval
                # (count, 1, 1), (residues, 1) and (positions) → (count · residues, positions)
                yield (offsets + residues + steps).flatten(0, 1)


def reorder(x: Tensor, order: Tensor, inverse: Tensor) -> Tensor:
    """Permute tokens: (L, T, C) → (L, T, C), with token ``order[i]`` of each list at index i.

    If there will be a backward pass, the output is written by index rather than read: the gradient of writing
    is a read, that of reading an addition by index, which takes several times as long.
    """
    if x.requires_grad and torch.is_grad_enabled() and not is_transformed():
        return torch.empty_like(x).index_copy_(1, inverse, x)
    return x.index_select(1, order)


def split_blocks(blocks: Sequence[GroupBlock], tokens: int) -> Iterator[list[GroupBlock]]:
    """Cut blocks into pieces of complete groups.

    Args:
        blocks: The groups.
        tokens: The maximum per piece; a piece of a single group may hold more.

    Yields:
        The blocks of each piece.
    """
    piece, room = [], tokens
    for block in blocks:
        left = block.count
        while left:
            count = min(left, max(room // block.tokens, 0 if piece else 1))
            if count:
                piece.append(block._replace(count=count))
                room -= count * block.tokens
                left -= count
            if left:
                yield piece
                piece, room = [], tokens
    if piece:
        yield piece
