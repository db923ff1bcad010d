"""Attention within groups of tokens, with a bias for the offset of two tokens, in plain PyTorch.

Notation: as in :mod:`.grouping`; h heads, d channels per head.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ..compat import NotFolded, is_traced_for_onnx, is_transformed, sizes
from .grouping import GroupBlock


def offsets_within(table: Tensor, rows: int, columns: int) -> Tensor:
    """The part of a table of biases that a group of R × S tokens needs, a view: (h, 2R − 1, 2S − 1)."""
    _, height, width = sizes(table)
    top, left = (height + 1) // 2 - rows, (width + 1) // 2 - columns
    return table[:, top : top + 2 * rows - 1, left : left + 2 * columns - 1]


def pair_biases(table: Tensor, rows: int, columns: int) -> Tensor:
    """Expand the biases of offsets to the pairs of tokens of a group.

    Args:
        table: (h, 2R' − 1, 2S' − 1), from :class:`~.position.DynamicPositionBias`, R' ≥ R and S' ≥ S.
        rows: R, of the group.
        columns: S, of the group.

    Returns:
        (h, N, N), N = R·S: the bias of each token to each other.
    """
    table = offsets_within(table, rows, columns)
    if is_traced_for_onnx():  # which would write an operator for each window, or store (h, N, N) numbers
        table = NotFolded.apply(table)
        for axis, size in enumerate((rows, columns), start=1):
            positions = torch.arange(size, device=table.device)
            table = table.index_select(axis, (positions - positions[:, None] + size - 1).flatten())
        # (h, R·R, S·S) → (h, R, S, R, S)
        pairs = table.view(-1, rows, rows, columns, columns).transpose(2, 3)
        return pairs.reshape(-1, rows * columns, rows * columns)
    # (h, 2R − 1, 2S − 1) → (h, R, S, R, S): one window of the table per token, the last token's first
    windows = table.unfold(1, rows, 1).unfold(2, columns, 1)
    return windows.flip(1, 2).flatten(3, 4).flatten(1, 2)


def attend(
    qkv: Tensor,
    table: Tensor | None,
    blocks: Sequence[GroupBlock],
    dropout: float = 0.0,
    num_heads: int | None = None,
) -> Tensor:
    """softmax(q kᵀ / √d + bias) v within every group.

    Args:
        qkv: (L, T, 3C), each list in the order of the groups, laid out as 3 × h × d.
        table: The biases of offsets, as in :func:`pair_biases`; None for no biases.
        blocks: The groups of each list.
        dropout: Dropout rate of the attention weights.
        num_heads: h, needed only without a table.

    Returns:
        (L, T, C) in the order of the groups.
    """
    heads, bias, parts = num_heads if table is None else len(table), None, []
    channels = sizes(qkv)[2] // 3
    lengths = [block.count * block.tokens for block in blocks]
    for block, part, length in zip(blocks, qkv.split(lengths, dim=1), lengths, strict=True):
        q, k, v = _split(part, block.tokens, heads)
        if table is not None:
            bias = _aligned(pair_biases(table, block.rows, block.columns).to(q.dtype))[None]
        part = _attention(q, k, v, bias, dropout)
        # (L·count, h, N, d) → (L, count·N, C)
        parts.append(part.transpose(1, 2).reshape(-1, length, channels))
    return torch.cat(parts, dim=1) if len(parts) > 1 else parts[0]


def _attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, dropout: float) -> Tensor:
    """softmax(q kᵀ / √d + bias) v, (L·count, h, N, d), fused where PyTorch's kernels allow it."""
    if not is_transformed():
        return F.scaled_dot_product_attention(q, k, v, attn_mask=bias, dropout_p=dropout)
    return F.dropout(_weights(q, k, bias), dropout, dropout > 0) @ v


def _split(qkv: Tensor, tokens: int, heads: int) -> Tensor:
    """Queries, keys and values of groups: (L, count·N, 3C) → (3, L·count, h, N, d)."""
    return qkv.reshape(-1, tokens, 3, heads, sizes(qkv)[2] // 3 // heads).permute(2, 0, 3, 1, 4)


def _weights(q: Tensor, k: Tensor, bias: Tensor | None) -> Tensor:
    """softmax(q kᵀ / √d + bias): (L·count, h, N, N)."""
    logits = q * sizes(q)[3] ** -0.5 @ k.transpose(-2, -1)
    return torch.softmax(logits if bias is None else logits + bias, dim=-1)


def attention_weights(qkv: Tensor, table: Tensor | None, group: GroupBlock, num_heads: int) -> Tensor:
    """The weights with which :func:`attend` sums the values of one group.

    Args:
        qkv: (N, 3C), of its tokens, laid out as there.
        table: As there.
        group: The shape of the group.
        num_heads: h.

    Returns:
        (h, N, N): of each token to each other; the sum over the last axis is 1.
    """
    q, k, _ = _split(qkv[None], group.tokens, num_heads)
    bias = None if table is None else pair_biases(table, group.rows, group.columns).to(q.dtype)
    return _weights(q, k, bias)[0]


def _aligned(bias: Tensor) -> Tensor:
    """Align the rows to 8 numbers: otherwise the fused kernels for GPUs pad the mask at each call."""
    tokens = bias.shape[-1]
    if bias.device.type == 'cpu' or tokens % 8 == 0:
        return bias
    return F.pad(bias, (0, -tokens % 8))[..., :tokens]
