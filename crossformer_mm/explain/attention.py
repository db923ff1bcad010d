"""Which tokens of a CrossFormer attend to which: the group of a token, and its weights.

Notation: as in :mod:`crossformer_mm.models.grouping`.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..models.attention import attention_weights
from ..models.crossformer import STEM_STRIDE, Attention, CrossFormer
from ..models.grouping import GroupBlock, find_groups


class Attended(NamedTuple):
    """What a token attends to in a block.

    Attributes:
        stage: The stage, from 1.
        block: The block in it, from 1.
        long_distance: Whether the block has long distance attention.
        size: Rows and columns of the map.
        group: Rows and columns of the group.
        interval: I, the step between the tokens of a group on each axis.
        tokens: Row and column of each token of the group, ``(N, 2)``.
        weights: Of each of them, ``(h, N)``.
    """

    stage: int
    block: int
    long_distance: bool
    size: tuple[int, int]
    group: tuple[int, int]
    interval: int
    tokens: Tensor
    weights: Tensor

    @property
    def stride(self) -> int:
        """The side of a token in pixels."""
        return STEM_STRIDE << (self.stage - 1)

    def record(self) -> dict[str, Any]:
        """The block and the shape of its group, for a JSON file."""
        return {
            'stage': self.stage,
            'block': self.block,
            'distance': 'long' if self.long_distance else 'short',
            'group': self.group,
            'interval': self.interval,
        }


def attended(attn: Attention, x: Tensor, row: int, column: int) -> tuple[GroupBlock, Tensor, Tensor]:
    """Find what a token attends to.

    Args:
        attn: The attention of a block.
        x: Its input for one image, ``(1, H, W, C)``.
        row: Of the token in the map.
        column: Of the token in the map.

    Returns:
        The shape of its group; the indices of the group's tokens in the flattened map, ``(N)``; the weight of
        each, ``(h, N)``.
    """
    _, H, W, C = x.shape
    grouping = attn.groups(H, W)
    groups = find_groups(x, 1, H, W, grouping.span, grouping.interval)
    place = int(groups.inverse[row * W + column])  # in the order of the groups
    start = 0
    for block in groups.blocks:
        if place < start + block.count * block.tokens:
            break
        start += block.count * block.tokens
    own = (place - start) % block.tokens  # in its group
    tokens = groups.order[place - own :][: block.tokens]
    qkv = attn.qkv(x.reshape(-1, C)[tokens])
    weights = attention_weights(qkv, attn.biases(H, W, grouping), block, attn.num_heads)
    return block, tokens, weights[:, own]


@contextmanager
def watched_attention(backbone: CrossFormer, x: float, y: float) -> Iterator[list[Attended]]:
    """Collect what a position attends to in a forward of one image inside the block.

    It is collected in the last block of each stage with short, and in the last with long distance attention.
    The hooks let these blocks compute with the plain layers, from whose inputs the weights are.

    Args:
        backbone: The network.
        x: Column of the position in the network's input, in pixels.
        y: Row of the position.

    Yields:
        A list, to which each of these blocks adds one.
    """
    found: list[Attended] = []
    handles = []

    def watch(stage: int, index: int) -> None:
        def keep(attn: Attention, inputs: tuple[Tensor]) -> None:
            (tokens_of_map,) = inputs
            H, W = tokens_of_map.shape[1:3]
            stride = STEM_STRIDE << stage
            group, tokens, weights = attended(attn, tokens_of_map, int(y // stride), int(x // stride))
            places = torch.stack((tokens // W, tokens % W), 1)
            found.append(
                Attended(
                    stage + 1,
                    index + 1,
                    attn.groups.long_distance,
                    (H, W),
                    (group.rows, group.columns),
                    attn.groups(H, W).interval,
                    places.cpu(),
                    weights.float().cpu(),
                )
            )

        handles.append(backbone.layers[stage].blocks[index].attn.register_forward_pre_hook(keep))

    for stage, layer in enumerate(backbone.layers):
        last = {block.attn.groups.long_distance: i for i, block in enumerate(layer.blocks)}
        for index in sorted(last.values()):
            watch(stage, index)
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()
