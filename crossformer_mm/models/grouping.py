"""Which tokens attend to each other: the groups of short and long distance attention (LSDA).

Notation: B batch, H W map height and width, C channels, G group size, I interval, N tokens of one group,
T = B·H·W tokens of a batch.

Every kind of group is one rule on each axis of the map: cut the axis into windows of ``span`` tokens, and
inside a window put the tokens together whose positions agree modulo I. Short distance attention has
span G and I = 1. Long distance attention (CrossFormer, section 3.2) has I > 1 and comes in two published
layouts: ``'map'``, where the window is the whole axis, and ``'window'``, where it is G·I tokens.

Groups at the bottom and right edges hold fewer tokens than the others, so nothing is padded: such a group is
one of the papers' padded layout without its padding, which no real token ever attends to.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from ..compat import is_ordinary, is_transformed, unseen

LAYOUTS = ('map', 'window')


class Grouping(NamedTuple):
    """How a map falls into groups.

    Attributes:
        span: Tokens of a window on each axis; None for the whole axis.
        interval: I.
        rows: No group has more rows.
        columns: No group has more columns.
    """

    span: int | None
    interval: int
    rows: int
    columns: int


@dataclass(frozen=True)
class GroupRule:
    """How a block groups the tokens of a map of any size.

    Attributes:
        group_size: G.
        interval: I of long distance attention.
        long_distance: Whether the block has long distance attention, or short.
        layout: ``'map'`` or ``'window'``.
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
        if side <= G:  # a small map: each layout has a rule of its own, for all blocks
            return Grouping(None, 1, H, W) if self.layout == 'window' else Grouping(side, 1, side, side)
        if not self.long_distance:
            return Grouping(G, 1, G, G)
        if self.layout == 'map':
            return Grouping(None, I, -(-H // I), -(-W // I))
        I = -(-max(H, W) // G) if self.adaptive else I
        return Grouping(G * I, I, G, G)


class GroupBlock(NamedTuple):
    """Groups of one shape that stand next to each other: ``count`` of ``rows`` × ``columns`` tokens each."""

    count: int
    rows: int
    columns: int

    @property
    def tokens(self) -> int:
        """N, the tokens of one group."""
        return self.rows * self.columns


class Groups(NamedTuple):
    """The tokens of a batch of maps, laid out group after group.

    Attributes:
        order: (T), int64: the token of the flattened maps at each index of the layout.
        inverse: (T), int64: the index in the layout of each token of the flattened maps.
        blocks: The groups, in the order of the layout; at most nine shapes occur.
    """

    order: Tensor
    inverse: Tensor
    blocks: tuple[GroupBlock, ...]


def find_groups(x: Tensor, B: int, H: int, W: int, span: int | None, interval: int) -> Groups:
    """Lay out the tokens of a batch of maps group after group.

    Args:
        x: Any tensor of the call, whose device the layout is made on.
        B: Maps in the batch.
        H: Rows of a map.
        W: Columns of a map.
        span: Tokens of a window on each axis; None for the whole axis.
        interval: I.

    Returns:
        The layout. It is a function of sizes and device alone and is cached, so that a second call at a size
        copies nothing to the device; nothing may write to its tensors.
    """
    if is_ordinary(x):
        return _cached_groups(x.device, B, H, W, span, interval)
    return _make_groups(x.device, B, H, W, span, interval)  # a compiler or a transform owns these


@lru_cache(maxsize=128)
def _cached_groups(device: torch.device, *size: int | None) -> Groups:
    with torch.inference_mode(False), unseen():  # for calls that come later, in whatever mode
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
    """Split the positions of one axis into groups.

    Args:
        length: Positions on the axis, at least 1.
        span: Positions of a window; None for the whole axis.
        interval: I, the step from a position of a group to its next.
        device: Where the tensors are made.

    Yields:
        (groups, positions of a group), int64: first the groups of full windows, then those of the rest at
        the end of the axis. Where I does not divide a window, its first groups are longer by one position.
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
    """Permute tokens: (T, C) → (T, C), with the token ``order[i]`` of ``x`` at index i.

    A permutation can be read or written by index. Where there will be a backward pass it is written: the
    gradient of writing is a plain read, that of reading an addition by index, several times as slow.
    """
    if x.requires_grad and torch.is_grad_enabled() and not is_transformed():
        return torch.empty_like(x).index_copy_(0, inverse, x)
    return x.index_select(0, order)


def split_blocks(blocks: Sequence[GroupBlock], tokens: int) -> Iterator[list[GroupBlock]]:
    """Cut a layout into pieces of whole groups.

    Args:
        blocks: The groups, in the order of the layout.
        tokens: How many a piece holds at most; a piece of a single group may hold more.

    Yields:
        The groups of each piece.
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
