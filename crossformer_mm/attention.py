"""Attention inside groups of tokens, as operators that a compiler need not look into.

How a map falls into groups depends on its size in ways that a tracer could follow only by fixing the size.
Each operator here takes the size as plain arguments and gives a tensor whose shape does not depend on the
groups, so that ``torch.compile`` and ``torch.export`` keep height and width symbolic.

Letters: B batch, H W map height and width, C channels, G group size, I interval, h heads, d channels of a
head, N tokens of one group, T = B·H·W.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.library import custom_op, register_autograd
from torch.utils.flop_counter import register_flop_formula

from .grouping import Run, find_groups, offset_index

Biases = dict[tuple[int, int], Tensor]  # by a group's rows and columns: (h, N, N)


def attend_plain(
    qkv: Tensor, table: Tensor, B: int, H: int, W: int, G: int, I: int, dropout: float = 0.0
) -> Tensor:
    """:func:`attend` in operations that autograd knows, and with dropout of the attention weights."""
    runs = find_groups(B, H, W, G, I).runs
    return attend_runs(qkv, runs, pairwise_biases(table, runs), dropout)


def attend_runs(
    qkv: Tensor, runs: Sequence[Run], biases: Biases, dropout: float = 0.0, out: Tensor | None = None
) -> Tensor:
    """Attention inside the groups of ``runs``, whose tokens ``qkv`` holds: (T, 3C) → (T, C), or ``out``."""
    parts = []
    for run, (q, k, v) in _split_heads(qkv, runs, biases):
        # (h, N, N) → (1, h, N, N): the fused kernel for CPUs takes no mask of three dimensions.
        bias = biases[run.shape].to(q.dtype)[None]
        part = F.scaled_dot_product_attention(q, k, v, attn_mask=bias, dropout_p=dropout)
        # (count, h, N, d) → (count·N, C)
        parts.append(part.transpose(1, 2).flatten(2).flatten(0, 1))
    return torch.cat(parts, out=out)


def attend_runs_backward(
    grad: Tensor,
    qkv: Tensor,
    runs: Sequence[Run],
    biases: Biases,
    grad_biases: Biases,
    attended: Tensor | None = None,
) -> Tensor:
    """The gradient of :func:`attend_runs` in ``qkv``, from ``grad`` (T, C) of its output.

    Args:
        grad: (T, C).
        qkv: (T, 3C).
        runs: The groups.
        biases: Of each shape of group.
        grad_biases: Gets the gradients of ``biases`` added, float32 at least.
        attended: Gets what :func:`attend_runs` gave, where that is wanted again.

    Returns:
        (T, 3C).
    """
    grad_qkv = torch.empty_like(qkv)
    start = 0
    for run, parts in _split_heads(qkv, runs, biases):
        rows = slice(start, start + run.count * run.tokens)
        # (3, count, h, N, d) → (3, count·h, N, d): copied once, where each product would do it anew
        q, k, v = parts.flatten(1, 2)
        # (count·N, C) → (count·h, N, d)
        grad_out = grad[rows].view(run.count, run.tokens, -1, q.shape[-1]).transpose(1, 2).flatten(0, 1)
        weights = _attention_weights(q, k, biases[run.shape])
        if attended is not None:
            out = attended[rows].view(run.count, run.tokens, -1, q.shape[-1])
            # (count·h, N, d) → (count, N, h, d)
            out.copy_(torch.bmm(weights.to(v.dtype), v).unflatten(0, (run.count, -1)).transpose(1, 2))
        grads, grad_logits = _attend_run_backward(grad_out, weights, q, k, v)
        grad_biases[run.shape] += grad_logits.unflatten(0, (run.count, -1)).sum(0)
        # (3, count·h, N, d) → (count, N, 3, h, d)
        out = grad_qkv[rows].view(run.count, run.tokens, 3, -1, q.shape[-1])
        out.copy_(grads.unflatten(1, (run.count, -1)).permute(1, 3, 0, 2, 4))
        start = rows.stop
    return grad_qkv


def pairwise_biases(table: Tensor, runs: Sequence[Run]) -> Biases:
    """Biases of offsets, (2R − 1, 2S − 1, h) → of the pairs of tokens of each shape of group, (h, N, N)."""
    biases = {}
    for run in runs:
        bias = table.flatten(0, 1).index_select(0, _offsets(table, run))
        biases[run.shape] = bias.view(run.tokens, run.tokens, -1).permute(2, 0, 1).contiguous()
    return biases


def zero_biases(biases: Biases) -> Biases:
    """What :func:`attend_runs_backward` adds gradients to: zeros, float32 at least."""
    return {
        shape: torch.zeros_like(bias, dtype=torch.promote_types(bias.dtype, torch.float32))
        for shape, bias in biases.items()
    }


def table_gradient(table: Tensor, grad_biases: Biases) -> Tensor:
    """The gradient of :func:`pairwise_biases` in ``table``."""
    grad = torch.zeros_like(table)
    for shape, grad_bias in grad_biases.items():
        # (h, N, N) → (N·N, h)
        pairs = grad_bias.flatten(1).T.to(table.dtype)
        grad.view(-1, table.shape[2]).index_add_(0, _offsets(table, Run(1, *shape)), pairs)
    return grad


def on_device(array: np.ndarray, device: torch.device) -> Tensor:
    """The array as a tensor on a device; on the CPU it shares the array's memory."""
    return torch.from_numpy(array).to(device)


def _offsets(table: Tensor, run: Run) -> Tensor:
    return on_device(offset_index(run.rows, run.columns, *table.shape[:2]), table.device)


def _split_heads(qkv: Tensor, runs: Sequence[Run], biases: Biases) -> Iterator[tuple[Run, Tensor]]:
    """Each run with its q, k and v: (T, 3C) → (3, count, h, N, d)."""
    parts = qkv.split([run.count * run.tokens for run in runs])
    for run, part in zip(runs, parts, strict=True):
        heads = biases[run.shape].shape[0]
        yield run, part.view(run.count, run.tokens, 3, heads, -1).permute(2, 0, 3, 1, 4)


def _attention_weights(q: Tensor, k: Tensor, bias: Tensor) -> Tensor:
    """softmax(q kᵀ / √d + bias), (count·h, N, N); float32 at least, as in the fused kernels."""
    # (h, N, N) → (count·h, N, N), to which the products are added in place
    logits = bias.to(q.dtype).repeat(len(q) // len(bias), 1, 1)
    logits.baddbmm_(q, k.mT, alpha=q.shape[-1] ** -0.5)
    return torch.softmax(logits, dim=-1, dtype=torch.promote_types(q.dtype, torch.float32))


def _attend_run_backward(
    grad: Tensor, weights: Tensor, q: Tensor, k: Tensor, v: Tensor
) -> tuple[Tensor, Tensor]:
    """Of one run, all (count·h, N, d): the gradients of q, k and v, and of the logits, (count·h, N, N)."""
    grad_weights = torch.bmm(grad, v.mT).to(weights.dtype)
    grad_logits = torch._softmax_backward_data(grad_weights, weights, -1, weights.dtype)
    narrow, scale = grad_logits.to(q.dtype), q.shape[-1] ** -0.5
    grads = q.new_empty(3, *q.shape)
    torch.baddbmm(grads[0], narrow, k, beta=0, alpha=scale, out=grads[0])
    torch.baddbmm(grads[1], narrow.mT, q, beta=0, alpha=scale, out=grads[1])
    torch.bmm(weights.to(q.dtype).mT, grad, out=grads[2])
    return grads, grad_logits


@custom_op('crossformer_mm::to_groups', mutates_args=())
def to_groups(x: Tensor, B: int, H: int, W: int, G: int, I: int) -> Tensor:
    """Put tokens into the order of their groups: (T, C) of (B, H, W) maps → (T, C)."""
    return x.index_select(0, on_device(find_groups(B, H, W, G, I).order, x.device))


@custom_op('crossformer_mm::from_groups', mutates_args=())
def from_groups(x: Tensor, B: int, H: int, W: int, G: int, I: int) -> Tensor:
    """Undo :func:`to_groups`: (T, C) → (T, C) of (B, H, W) maps."""
    return x.index_select(0, on_device(find_groups(B, H, W, G, I).inverse, x.device))


@custom_op('crossformer_mm::attend', mutates_args=())
def attend(qkv: Tensor, table: Tensor, B: int, H: int, W: int, G: int, I: int) -> Tensor:
    """softmax(q kᵀ / √d + bias) v inside every group.

    Args:
        qkv: (T, 3C) in the order of the groups, laid out as 3 × h × d.
        table: (2R − 1, 2S − 1, h), the biases of the offsets in a group of up to R × S tokens; entry
            [R − 1 + a, S − 1 + b] is of the offset (a, b).
        B: Maps in the batch.
        H: Rows of a map.
        W: Columns of a map.
        G: Group size.
        I: Interval.

    Returns:
        (T, C). The backward pass computes the attention weights again instead of keeping them.
    """
    return attend_plain(qkv, table, B, H, W, G, I)


@custom_op('crossformer_mm::attend_backward', mutates_args=())
def attend_backward(
    grad: Tensor, qkv: Tensor, table: Tensor, B: int, H: int, W: int, G: int, I: int
) -> tuple[Tensor, Tensor]:
    """The gradients of :func:`attend` in ``qkv`` and ``table``, from ``grad`` (T, C) of its output."""
    runs = find_groups(B, H, W, G, I).runs
    biases = pairwise_biases(table, runs)
    grad_biases = zero_biases(biases)
    return attend_runs_backward(grad, qkv, runs, biases, grad_biases), table_gradient(table, grad_biases)


def _keep_size(ctx: Any, inputs: tuple, output: Tensor) -> None:
    ctx.size = inputs[1:]


def _keep_tensors_and_size(ctx: Any, inputs: tuple, output: Tensor) -> None:
    qkv, table, *ctx.size = inputs
    ctx.save_for_backward(qkv, table)


def _to_groups_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    return from_groups(grad, *ctx.size), *[None] * len(ctx.size)


def _from_groups_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    return to_groups(grad, *ctx.size), *[None] * len(ctx.size)


def _attend_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    grads = attend_backward(grad.contiguous(), *ctx.saved_tensors, *ctx.size)
    return *grads, *[None] * len(ctx.size)


register_autograd(to_groups, _to_groups_backward, setup_context=_keep_size)
register_autograd(from_groups, _from_groups_backward, setup_context=_keep_size)
register_autograd(attend, _attend_backward, setup_context=_keep_tensors_and_size)

# What a compiler is told of the operators: the shapes of what they return.
to_groups.register_fake(lambda x, *size: x.new_empty(x.shape))
from_groups.register_fake(lambda x, *size: x.new_empty(x.shape))
attend.register_fake(lambda qkv, table, *size: qkv.new_empty(qkv.shape[0], qkv.shape[1] // 3))
attend_backward.register_fake(
    lambda grad, qkv, table, *size: (qkv.new_empty(qkv.shape), table.new_empty(table.shape))
)


def product(channels: int, size: Sequence[int]) -> int:
    """Multiply-adds of q kᵀ, or of the weights with v, over all groups: C · Σ N²."""
    return channels * sum(run.count * run.tokens**2 for run in find_groups(*size).runs)


@register_flop_formula(torch.ops.crossformer_mm.attend)
def attend_flops(qkv: Sequence[int], table: Sequence[int], *size: int, **_: Any) -> int:
    """Operations of :func:`attend`, two a multiply-add, for PyTorch's FLOP counter; takes shapes."""
    return 2 * 2 * product(qkv[1] // 3, size)


@register_flop_formula(torch.ops.crossformer_mm.attend_backward)
def attend_backward_flops(
    grad: Sequence[int], qkv: Sequence[int], table: Sequence[int], *size: int, **_: Any
) -> int:
    """Operations of :func:`attend_backward`: q kᵀ again, then two products for each of the forward's."""
    return 2 * 5 * product(qkv[1] // 3, size)
