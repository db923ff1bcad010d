"""Attention within groups, forward and backward, in parts that fit the caches.

In large groups, keys and values are used in reverse order, which does not change sums over them. The biases
of a group's pairs are then a view of the table of offsets with overlapping windows. This view is copied in
parts, which avoids a tensor of (h, N, N) numbers (87 MB in stage 4 for an image of 800×1216).

Notation: as in :mod:`..grouping`. :mod:`.branches` builds its operators on these functions; none is
differentiable.
"""

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ...compat import softmax_backward
from ..attention import offsets_within
from ..grouping import GroupBlock

LARGE = 256  # tokens per group; larger groups are computed as described above
PAIRS = 2 * 10**6  # pairs of tokens per part; above 32 MB each allocation is a system call


def attend_blocks(qkv: Tensor, table: Tensor, blocks: Sequence[GroupBlock], out: Tensor) -> None:
    """Attention within groups, (T, 3C) → (T, C), into ``out``.

    Args:
        qkv: Laid out as 3 × h × d, in the order of the groups.
        table: (h, 2R' − 1, 2S' − 1), as for :func:`..attention.pair_biases`, in the dtype of ``qkv``.
        blocks: The groups.
        out: Receives the result.
    """
    for rows, block, q, kv in _split_heads(qkv, blocks, len(table)):
        biases = _biases(table, block)
        heads = max(1, PAIRS // block.tokens**2)
        for start in range(0, len(table), heads):
            part = slice(start, start + heads)
            attended = _attend(q[:, part], *kv[:, :, part], biases[part])
            # (count, h, N, d) → (count, N, h, d)
            out[rows].view(*q.shape[:1], block.tokens, -1, q.shape[3])[:, :, part] = attended.transpose(1, 2)


def _attend(q: Tensor, k: Tensor, v: Tensor, biases: Tensor) -> Tensor:
    """softmax(q kᵀ / √d + biases) v, (count, h, N, d), with biases (h, R, S, R, S)."""
    count, heads, tokens, d = q.shape
    if q.dtype is not torch.bfloat16 or tokens < LARGE:
        bias = biases.contiguous().view(1, heads, tokens, tokens)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
    # In bfloat16, the fused kernel for CPUs takes as long as in float32, but matrix products half as long.
    logits = biases.new_empty(count, *biases.shape).copy_(biases).view(-1, tokens, tokens)
    logits.baddbmm_(q.flatten(0, 1), k.flatten(0, 1).mT, alpha=d**-0.5)
    torch.softmax(logits, -1, out=logits)
    return torch.bmm(logits, v.flatten(0, 1)).view_as(q)


def attend_blocks_backward(
    grad: Tensor, qkv: Tensor, table: Tensor, blocks: Sequence[GroupBlock], grad_biases: dict[tuple, Tensor]
) -> Tensor:
    """The gradient of :func:`attend_blocks` for ``qkv``, (T, 3C), from ``grad`` (T, C) of its output.

    The gradients of biases are added to ``grad_biases``: (h, R, S, R, S) for each size (R, S) of groups.
    """
    grad_qkv = torch.empty_like(qkv)
    for rows, block, q, kv in _split_heads(qkv, blocks, len(table)):
        biases, heads, d = _biases(table, block), len(table), q.shape[3]
        grad_bias = grad_biases.setdefault((block.rows, block.columns), biases.new_zeros(biases.shape))
        # (count·N, C) → (count, h, N, d) and (count·N, 3C) → (3, count, h, N, d)
        grad_out = grad[rows].view(block.count, block.tokens, heads, d).transpose(1, 2)
        grads = grad_qkv[rows].view(block.count, block.tokens, 3, heads, d).permute(2, 0, 3, 1, 4)
        for part in _parts(block, heads):
            logits = biases[part[1]].expand(len(q[part[0]]), *[-1] * 5).contiguous()
            tensors = [t[part].flatten(0, 1) for t in (grad_out, q, *kv)]
            if not _is_large(block) or qkv.dtype is not torch.bfloat16:
                tensors = [t.to(logits.dtype) for t in tensors]
            *part_grads, grad_logits = _attend_backward(*tensors, logits.view(-1, block.tokens, block.tokens))
            for i, part_grad in enumerate(part_grads):
                out = grads[i][part]
                reverse = i and _is_large(block)
                out.copy_((part_grad.flip(1) if reverse else part_grad).view_as(out))
            grad_bias[part[1]] += grad_logits.view_as(logits).sum(0)
    return grad_qkv


def _is_large(block: GroupBlock) -> bool:
    return block.tokens >= LARGE


def _biases(table: Tensor, block: GroupBlock) -> Tensor:
    """(h, R, S, R, S): the biases of a group's pairs; for a large group, a view, with its keys in reverse."""
    table = offsets_within(table, block.rows, block.columns).flip(1, 2)
    windows = table.unfold(1, block.rows, 1).unfold(2, block.columns, 1)
    return windows if _is_large(block) else windows.flip(3, 4)


def table_gradient(table: Tensor, grad_biases: dict[tuple, Tensor]) -> Tensor:
    """The gradient with respect to ``table``: sums of the biases' gradients over the pairs of each offset."""
    total = torch.zeros_like(table, dtype=torch.promote_types(table.dtype, torch.float32))
    for (R, S), grad in grad_biases.items():
        if not _is_large(GroupBlock(1, R, S)):
            grad = grad.flip(3, 4)
        columns = total.new_zeros(len(grad), R, R, 2 * S - 1)
        for s in range(S):
            columns[..., s : s + S] += grad[:, :, s]
        offsets = total.new_zeros(len(grad), 2 * R - 1, 2 * S - 1)
        for r in range(R):
            offsets[:, r : r + R] += columns[:, r]
        offsets_within(total, R, S).add_(offsets.flip(1, 2))
    return total.to(table.dtype)


def _split_heads(
    qkv: Tensor, blocks: Sequence[GroupBlock], heads: int
) -> Iterator[tuple[slice, GroupBlock, Tensor, Tensor]]:
    """For each block: its rows of ``qkv``, the block, q (count, h, N, d), and k and v (2, count, h, N, d)."""
    start = 0
    for block in blocks:
        rows = slice(start, start + block.count * block.tokens)
        # (count·N, 3C) → (count, N, 3, h, d)
        parts = qkv[rows].view(block.count, block.tokens, 3, heads, -1)
        kv = parts[:, :, 1:].flip(1) if _is_large(block) else parts[:, :, 1:]
        yield rows, block, parts[:, :, 0].transpose(1, 2), kv.permute(2, 0, 3, 1, 4)
        start = rows.stop


def _parts(block: GroupBlock, heads: int) -> Iterator[tuple[slice, slice]]:
    """Slices of groups and heads for which three matrices of attention weights fit the caches."""
    some_heads = min(heads, max(1, PAIRS // block.tokens**2))
    groups = max(1, PAIRS // (block.tokens**2 * some_heads))
    for head in range(0, heads, some_heads):
        for group in range(0, block.count, groups):
            yield slice(group, group + groups), slice(head, head + some_heads)


def _attend_backward(grad: Tensor, q: Tensor, k: Tensor, v: Tensor, logits: Tensor) -> tuple[Tensor, ...]:
    """For some groups and heads: the gradients of q, k and v, (n, N, d), and of the logits, (n, N, N).

    ``logits`` contains the biases, and the products are added in place.
    """
    scale = q.shape[-1] ** -0.5
    if q.dtype == logits.dtype:
        logits.baddbmm_(q, k.mT, alpha=scale)
    else:
        logits.add_(torch.bmm(q, k.mT), alpha=scale)
    weights = torch.softmax(logits, dim=-1)
    grad_v = torch.bmm(weights.to(q.dtype).mT, grad)
    grad_weights = torch.bmm(grad, v.mT).to(weights.dtype)
    grad_logits = softmax_backward(grad_weights, weights)
    narrow = grad_logits.to(q.dtype)
    grad_q = torch.baddbmm(q, narrow, k, beta=0, alpha=scale)
    grad_k = torch.baddbmm(k, narrow.mT, q, beta=0, alpha=scale)
    return grad_q, grad_k, grad_v, grad_logits
