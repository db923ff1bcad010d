"""Attention inside groups, forward and backward, in chunks that fit the caches.

Notation as in :mod:`..grouping`. Nothing here is differentiable: it is what the operators of
:mod:`.branches` are made of.
"""

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ..attention import pair_biases
from ..grouping import GroupBlock

PAIRS = 2 * 10**6  # of tokens, at a time in the backward pass

Biases = dict[tuple[int, int], Tensor]  # by a group's rows and columns: (h, N, N)


def attend_blocks(qkv: Tensor, blocks: Sequence[GroupBlock], biases: Biases, out: Tensor) -> None:
    """Attention inside groups, (T, 3C) → (T, C), into ``out``."""
    for rows, block, (q, k, v) in _split_heads(qkv, blocks, biases):
        # (h, N, N) → (1, h, N, N): the fused kernel for CPUs takes no mask of three dimensions.
        part = F.scaled_dot_product_attention(q, k, v, attn_mask=biases[block.rows, block.columns][None])
        # (count, h, N, d) → (count, N, h, d)
        out[rows].view(block.count, block.tokens, *part.shape[1::2]).copy_(part.transpose(1, 2))


def _split_heads(
    qkv: Tensor, blocks: Sequence[GroupBlock], biases: Biases
) -> Iterator[tuple[slice, GroupBlock, Tensor]]:
    """Each block with its rows of ``qkv`` and its q, k and v: (T, 3C) → (3, count, h, N, d)."""
    start = 0
    for block in blocks:
        rows = slice(start, start + block.count * block.tokens)
        heads = len(biases[block.rows, block.columns])
        yield rows, block, qkv[rows].view(block.count, block.tokens, 3, heads, -1).permute(2, 0, 3, 1, 4)
        start = rows.stop


def attend_blocks_backward(
    grad: Tensor, qkv: Tensor, blocks: Sequence[GroupBlock], biases: Biases, grad_biases: Biases
) -> Tensor:
    """The gradient of :func:`attend_blocks` in ``qkv``, (T, 3C), from ``grad`` (T, C) of its output.

    The gradients of ``biases`` are added to ``grad_biases``.
    """
    grad_qkv = torch.empty_like(qkv)
    for rows, block, (q, k, v) in _split_heads(qkv, blocks, biases):
        shape = block.rows, block.columns
        heads, d = q.shape[1], q.shape[3]
        # (count·N, C) → (count, h, N, d)
        grad_out = grad[rows].view(block.count, block.tokens, heads, d).transpose(1, 2)
        # (count·N, 3C) → (3, count, h, N, d)
        grads = grad_qkv[rows].view(block.count, block.tokens, 3, heads, d).permute(2, 0, 3, 1, 4)
        for part in _parts(block, heads):
            tensors = (t[part].flatten(0, 1) for t in (grad_out, q, k, v))
            part_grads, grad_logits = _attend_backward(*tensors, biases[shape][part[1]])
            for out, part_grad in zip(grads, part_grads, strict=True):
                out[part].copy_(part_grad.view_as(out[part]))
            grad_biases[shape][part[1]] += grad_logits.unflatten(0, out[part].shape[:2]).sum(0)
    return grad_qkv


def _parts(block: GroupBlock, heads: int) -> Iterator[tuple[slice, slice]]:
    """Slices of groups and of heads, so many that their attention weights stay in the caches."""
    pairs = block.tokens**2
    some_heads = min(heads, max(1, PAIRS // pairs))
    groups = max(1, PAIRS // (pairs * some_heads))
    for head in range(0, heads, some_heads):
        for group in range(0, block.count, groups):
            yield slice(group, group + groups), slice(head, head + some_heads)


def _attend_backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, bias: Tensor
) -> tuple[tuple[Tensor, Tensor, Tensor], Tensor]:
    """Of some groups and heads, all (n, N, d): the gradients of q, k and v, and of the logits, (n, N, N)."""
    scale = q.shape[-1] ** -0.5
    # (h, N, N) → (n, N, N), to which the products are added in place
    logits = bias.repeat(len(q) // len(bias), 1, 1)
    weights = torch.softmax(logits.baddbmm_(q, k.mT, alpha=scale), dim=-1)
    grad_v = torch.bmm(weights.mT, grad)
    grad_logits = torch.ops.aten._softmax_backward_data(torch.bmm(grad, v.mT), weights, -1, weights.dtype)
    grad_q = torch.baddbmm(q, grad_logits, k, beta=0, alpha=scale)
    grad_k = torch.baddbmm(k, grad_logits.mT, q, beta=0, alpha=scale)
    return (grad_q, grad_k, grad_v), grad_logits


def make_biases(table: Tensor, blocks: Sequence[GroupBlock], dtype: torch.dtype) -> Biases:
    """The biases of the pairs of tokens of each shape of group."""
    shapes = {(block.rows, block.columns) for block in blocks}
    return {shape: pair_biases(table, *shape).to(dtype) for shape in shapes}


def zero_gradients(biases: Biases) -> Biases:
    """What :func:`attend_blocks_backward` adds the gradients of biases to."""
    return {shape: torch.zeros_like(bias) for shape, bias in biases.items()}


def table_gradient(table: Tensor, grad_biases: Biases) -> Tensor:
    """The gradient of :func:`..attention.pair_biases` in ``table``: sums over pairs of one offset."""
    total = torch.zeros_like(table, dtype=torch.promote_types(table.dtype, torch.float32))
    for (R, S), grad in grad_biases.items():
        pairs = grad.view(-1, R, S, R, S)
        columns = total.new_zeros(len(grad), R, R, 2 * S - 1)
        for s in range(S):
            columns[..., S - 1 - s : 2 * S - 1 - s] += pairs[:, :, s]
        top, left = (table.shape[1] + 1) // 2 - R, (table.shape[2] + 1) // 2 - S
        window = total[:, top : top + 2 * R - 1, left : left + 2 * S - 1]
        for r in range(R):
            window[:, R - 1 - r : 2 * R - 1 - r] += columns[:, r]
    return total.to(table.dtype)
