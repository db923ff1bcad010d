"""The residual branches of a block on CPUs, a chunk of tokens at a time.

A branch makes tensors up to four times as wide as the tokens. Over a whole map they leave the caches, and
above 32 MB the C library gives their memory back to the system and takes it anew, page by page, each time.
Chunk by chunk they stay small: on two x86-64 cores an MLP of stage 1 at 800×1216 takes 41 ms instead of 88 in
float32, and 13 instead of 39 in bfloat16. For backward, a branch keeps what would cost a product to compute
again, ten times a block's width; or its input alone, as activation checkpointing wants.

Letters as in :mod:`.attention`; T = B·H·W tokens.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.library import custom_op, register_autograd
from torch.utils.flop_counter import register_flop_formula

from .attention import (
    attend_runs,
    attend_runs_backward,
    on_device,
    pairwise_biases,
    product,
    table_gradient,
    zero_biases,
)
from .grouping import Run, find_groups, split_runs

CHUNK = 2048  # tokens; MLPs took 3 % longer in training with 4096, and longer with 1024 and 8192 (AVX2)
NORM_EPS = 1e-5

_in_one_dtype = torch.autocast('cpu', enabled=False)


def suits_chunks(x: Tensor, block: nn.Module, layers: Iterable[nn.Module]) -> bool:
    """Whether functions made for CPUs compute the layers of ``block`` on ``x``: the one place that decides.

    GPUs have no such caches. What has layers that were replaced (adapters, quantisation) or are listened to
    runs layer by layer.
    """
    if x.device.type != 'cpu':
        return False
    listened = any(module._forward_hooks or module._forward_pre_hooks for module in block.modules())
    return not listened and all(type(layer) in (nn.LayerNorm, nn.Linear, nn.Conv2d) for layer in layers)


def in_autocast_dtype(x: Tensor) -> Tensor:
    """``x`` in the dtype that autocast computes in on CPUs, where it is on."""
    return x.to(torch.get_autocast_dtype('cpu')) if torch.is_autocast_enabled('cpu') else x


def weights_of(*layers: nn.LayerNorm | nn.Linear) -> list[Tensor]:
    """The layers' weights, each followed by its bias, as the operators take them."""
    return [tensor for layer in layers for tensor in (layer.weight, layer.bias)]


@custom_op('crossformer_mm::add_mlp', mutates_args=())
@_in_one_dtype
def add_mlp(
    x: Tensor,
    scale: float,
    keep: bool,
    norm_w: Tensor,
    norm_b: Tensor,
    w1: Tensor,
    b1: Tensor,
    w2: Tensor,
    b2: Tensor,
) -> tuple[Tensor, Tensor]:
    """x + scale · fc2(gelu(fc1(norm(x)))).

    Args:
        x: (T, C).
        scale: What the branch is multiplied with.
        keep: Whether to keep for backward what fc1 gave.
        norm_w: (C), the layer norm's weight.
        norm_b: (C), its bias.
        w1: (4C, C), the first linear layer's weight.
        b1: (4C), its bias.
        w2: (C, 4C), the second's.
        b2: (C), its bias.

    Returns:
        (T, C) of the dtype of ``x``, in which the products are computed; and what is kept, (T or 0, 4C).
    """
    w1, b1, w2, b2 = _cast((w1, b1, w2, b2), x.dtype)
    out, kept = torch.empty_like(x), x.new_empty(len(x) if keep else 0, len(b1))
    for rows in _slices(len(x)):
        normed = _norm(x[rows], norm_w, norm_b)[0].to(x.dtype)
        hidden = torch.addmm(b1, normed, w1.T, out=kept[rows] if keep else None)
        torch.addmm(b2, F.gelu(hidden), w2.T, beta=scale, alpha=scale, out=out[rows]).add_(x[rows])
    return out, kept


@custom_op('crossformer_mm::add_mlp_backward', mutates_args=())
@_in_one_dtype
def add_mlp_backward(
    grad: Tensor,
    kept: Tensor,
    x: Tensor,
    scale: float,
    norm_w: Tensor,
    norm_b: Tensor,
    w1: Tensor,
    b1: Tensor,
    w2: Tensor,
    b2: Tensor,
) -> list[Tensor]:
    """The gradients of :func:`add_mlp` in ``x`` and the weights, from ``grad`` (T, C) of its first output.

    ``kept`` is its second; what is not there is computed again.
    """
    sums = _Sums(norm_w, norm_b, w1, b1, w2, b2)
    w1, b1, w2 = _cast((w1, b1, w2), x.dtype)
    grad_x = torch.empty_like(x)
    for rows in _slices(len(x)):
        tokens, g = x[rows], grad[rows]
        normed, *moments = _norm(tokens, norm_w, norm_b)
        normed = normed.to(x.dtype)
        hidden = kept[rows] if len(kept) else F.linear(normed, w1, b1)
        grad_out = g * scale
        sums.add_linear(4, grad_out, F.gelu(hidden))
        grad_hidden = torch.ops.aten.gelu_backward(grad_out @ w2, hidden)
        sums.add_linear(2, grad_hidden, normed)
        torch.add(g, sums.add_norm(0, grad_hidden @ w1, tokens, moments, norm_w, norm_b), out=grad_x[rows])
    return [grad_x, *sums.totals()]


@custom_op('crossformer_mm::add_attention', mutates_args=())
@_in_one_dtype
def add_attention(
    x: Tensor,
    scale: float,
    keep: bool,
    table: Tensor,
    norm_w: Tensor,
    norm_b: Tensor,
    w_qkv: Tensor,
    b_qkv: Tensor,
    w_proj: Tensor,
    b_proj: Tensor,
    B: int,
    H: int,
    W: int,
    G: int,
    I: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """x + scale · proj(attention(qkv(norm(x)))), inside groups of tokens.

    Args:
        x: (T, C) of (B, H, W) maps.
        scale: What the branch is multiplied with.
        keep: Whether to keep for backward what qkv and attention gave.
        table: Biases of offsets, as :func:`.attention.attend` takes them.
        norm_w: (C), the layer norm's weight.
        norm_b: (C), its bias.
        w_qkv: (3C, C), the weight of the linear layer for queries, keys and values, laid out as 3 × h × d.
        b_qkv: (3C), its bias.
        w_proj: (C, C), the weight of the linear layer after attention.
        b_proj: (C), its bias.
        B: Maps in the batch.
        H: Rows of a map.
        W: Columns of a map.
        G: Group size.
        I: Interval.

    Returns:
        (T, C) of the dtype of ``x``, in which the products are computed; and what is kept, in the order of
        the groups, (T or 0, 3C) and (T or 0, C).
    """
    w_qkv, b_qkv, w_proj, b_proj = _cast((w_qkv, b_qkv, w_proj, b_proj), x.dtype)
    groups = find_groups(B, H, W, G, I)
    biases = {shape: bias.to(x.dtype) for shape, bias in pairwise_biases(table, groups.runs).items()}
    order, inverse = on_device(groups.order, x.device), on_device(groups.inverse, x.device)
    T = len(x) if keep else 0
    out, kept_qkv, kept_attended = (
        torch.empty_like(x),
        x.new_empty(T, len(b_qkv)),
        x.new_empty(T, len(b_proj)),
    )
    for rows, runs in _chunks(groups.runs):
        tokens = x.index_select(0, order[rows])
        normed = _norm(tokens, norm_w, norm_b)[0].to(x.dtype)
        qkv = torch.addmm(b_qkv, normed, w_qkv.T, out=kept_qkv[rows] if keep else None)
        attended = attend_runs(qkv, runs, biases, out=kept_attended[rows] if keep else None)
        torch.addmm(b_proj, attended, w_proj.T, beta=scale, alpha=scale, out=out[rows]).add_(tokens)
    return out.index_select(0, inverse), kept_qkv, kept_attended


@custom_op('crossformer_mm::add_attention_backward', mutates_args=())
@_in_one_dtype
def add_attention_backward(
    grad: Tensor,
    kept_qkv: Tensor,
    kept_attended: Tensor,
    x: Tensor,
    scale: float,
    table: Tensor,
    norm_w: Tensor,
    norm_b: Tensor,
    w_qkv: Tensor,
    b_qkv: Tensor,
    w_proj: Tensor,
    b_proj: Tensor,
    B: int,
    H: int,
    W: int,
    G: int,
    I: int,
) -> list[Tensor]:
    """The gradients of :func:`add_attention` in ``x``, ``table`` and the weights, from ``grad`` (T, C).

    ``kept_qkv`` and ``kept_attended`` are its other outputs; what is not there is computed again.
    """
    sums = _Sums(norm_w, norm_b, w_qkv, b_qkv, w_proj, b_proj)
    w_qkv, b_qkv, w_proj = _cast((w_qkv, b_qkv, w_proj), x.dtype)
    groups = find_groups(B, H, W, G, I)
    biases = pairwise_biases(table, groups.runs)
    grad_biases = zero_biases(biases)
    order, inverse = on_device(groups.order, x.device), on_device(groups.inverse, x.device)
    grad_x = torch.empty_like(x)
    for rows, runs in _chunks(groups.runs):
        tokens, g = x.index_select(0, order[rows]), grad.index_select(0, order[rows])
        normed, *moments = _norm(tokens, norm_w, norm_b)
        normed = normed.to(x.dtype)
        grad_out = g * scale
        grad_attended = _wide(grad_out @ w_proj)
        if len(kept_qkv):
            qkv, attended, again = kept_qkv[rows], kept_attended[rows], None
        else:
            qkv = F.linear(normed, w_qkv, b_qkv)
            attended = again = torch.empty_like(grad_attended)
        grad_qkv = attend_runs_backward(grad_attended, _wide(qkv), runs, biases, grad_biases, again)
        grad_qkv = grad_qkv.to(x.dtype)
        sums.add_linear(4, grad_out, attended.to(x.dtype))
        sums.add_linear(2, grad_qkv, normed)
        torch.add(g, sums.add_norm(0, grad_qkv @ w_qkv, tokens, moments, norm_w, norm_b), out=grad_x[rows])
    return [grad_x.index_select(0, inverse), table_gradient(table, grad_biases), *sums.totals()]


class _Sums:
    """The gradients of a branch's weights, added up over chunks in float32 at least."""

    def __init__(self, *weights: Tensor) -> None:
        self.dtypes = [weight.dtype for weight in weights]
        self.sums = [_wide(torch.zeros_like(weight)) for weight in weights]

    def add_linear(self, place: int, grad: Tensor, inputs: Tensor) -> None:
        """Add a linear layer's: of the weight, which stands at ``place``, and of the bias after it."""
        weight, bias = self.sums[place : place + 2]
        add_product(weight, grad, inputs)
        bias += grad.sum(0)

    def add_norm(
        self, place: int, grad: Tensor, inputs: Tensor, moments: Sequence[Tensor], *norm: Tensor
    ) -> Tensor:
        """Add a layer norm's, like :meth:`add_linear`; gives the gradient of the norm's inputs."""
        grad_inputs, *grads = torch.ops.aten.native_layer_norm_backward(
            _wide(grad), _wide(inputs), inputs.shape[1:], *moments, *map(_wide, norm), [True] * 3
        )
        for total, grad_weight in zip(self.sums[place : place + 2], grads, strict=True):
            total += grad_weight
        return grad_inputs.to(grad.dtype)

    def totals(self) -> list[Tensor]:
        """The gradients, each of its weight's dtype."""
        return [total.to(dtype) for total, dtype in zip(self.sums, self.dtypes, strict=True)]


def add_product(total: Tensor, grad: Tensor, inputs: Tensor) -> None:
    """Add gradᵀ · inputs, of (T, M) and (T, K), to a total (M, K) that may be of a wider dtype."""
    if total.dtype == grad.dtype:
        total.addmm_(grad.T, inputs)
    else:
        total += grad.T @ inputs


def _norm(x: Tensor, *norm: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Layer norm of (T, C), with the mean and the inverse deviation of each token; float32 at least."""
    return torch.native_layer_norm(_wide(x), x.shape[1:], *map(_wide, norm), NORM_EPS)


def _slices(tokens: int) -> Iterator[slice]:
    """Chunks of rows."""
    return (slice(start, start + CHUNK) for start in range(0, tokens, CHUNK))


def _chunks(runs: Sequence[Run]) -> Iterator[tuple[slice, list[Run]]]:
    """Pieces of a layout, and the rows of it that each is."""
    start = 0
    for piece in split_runs(runs, CHUNK):
        stop = start + sum(run.count * run.tokens for run in piece)
        yield slice(start, stop), piece
        start = stop


def _wide(tensor: Tensor) -> Tensor:
    """In float32 at least, in which sums over many tokens are exact enough."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def _cast(tensors: Sequence[Tensor], dtype: torch.dtype) -> list[Tensor]:
    return [tensor.to(dtype) for tensor in tensors]


def _keep_mlp(ctx: Any, inputs: tuple, output: tuple[Tensor, Tensor]) -> None:
    x, ctx.scale, _, *weights = inputs
    _save(ctx, output[1:], x, *weights)


def _keep_attention(ctx: Any, inputs: tuple, output: tuple[Tensor, Tensor, Tensor]) -> None:
    x, ctx.scale, _, *tensors = inputs[:10]
    ctx.size = inputs[10:]
    _save(ctx, output[1:], x, *tensors)


def _save(ctx: Any, kept: Sequence[Tensor], *inputs: Tensor) -> None:
    ctx.mark_non_differentiable(*kept)
    ctx.set_materialize_grads(False)  # else zeros as large as what is kept
    ctx.save_for_backward(*kept, *inputs)


def _mlp_backward(ctx: Any, grad: Tensor | None, _: None) -> tuple[Tensor | None, ...]:
    if grad is None:
        return (None,) * len(ctx.needs_input_grad)
    kept, x, *weights = ctx.saved_tensors
    grad_x, *grads = add_mlp_backward(grad, kept, x, ctx.scale, *weights)
    return grad_x, None, None, *grads


def _attention_backward(ctx: Any, grad: Tensor | None, *_: None) -> tuple[Tensor | None, ...]:
    if grad is None:
        return (None,) * len(ctx.needs_input_grad)
    *kept, x, table, norm_w, norm_b, w_qkv, b_qkv, w_proj, b_proj = ctx.saved_tensors
    weights = (norm_w, norm_b, w_qkv, b_qkv, w_proj, b_proj)
    grad_x, *grads = add_attention_backward(grad, *kept, x, ctx.scale, table, *weights, *ctx.size)
    return grad_x, None, None, *grads, *[None] * len(ctx.size)


register_autograd(add_mlp, _mlp_backward, setup_context=_keep_mlp)
register_autograd(add_attention, _attention_backward, setup_context=_keep_attention)


# What a compiler is told of the operators: the shapes of what they return.
def _fakes(x: Tensor, keep: bool, *widths: int) -> tuple[Tensor, ...]:
    T, C = x.shape
    return x.new_empty(T, C), *(x.new_empty(T if keep else 0, width * C) for width in widths)


add_mlp.register_fake(lambda x, scale, keep, *_: _fakes(x, keep, 4))
add_attention.register_fake(lambda x, scale, keep, *_: _fakes(x, keep, 3, 1))
add_mlp_backward.register_fake(
    lambda grad, kept, x, scale, *weights: [t.new_empty(t.shape) for t in (x, *weights)]
)
add_attention_backward.register_fake(
    lambda grad, qkv, attended, x, scale, *others: [t.new_empty(t.shape) for t in (x, *others[:7])]
)


@register_flop_formula(torch.ops.crossformer_mm.add_mlp)
def add_mlp_flops(x: Sequence[int], *_: Any, **__: Any) -> int:
    """Operations of :func:`add_mlp`, two a multiply-add, for PyTorch's FLOP counter; takes shapes."""
    T, C = x
    return 2 * T * 8 * C * C


@register_flop_formula(torch.ops.crossformer_mm.add_mlp_backward)
def add_mlp_backward_flops(grad: Sequence[int], kept: Sequence[int], *_: Any, **__: Any) -> int:
    """Operations of :func:`add_mlp_backward`: two products for each layer, and the first layer again."""
    T, C = grad
    return 2 * T * (16 if kept[0] else 20) * C * C


@register_flop_formula(torch.ops.crossformer_mm.add_attention)
def add_attention_flops(x: Sequence[int], *others: Any, **_: Any) -> int:
    """Operations of :func:`add_attention`: four products with C × C weights, and attention's two."""
    T, C = x
    return 2 * (T * 4 * C * C + 2 * product(C, others[-5:]))


@register_flop_formula(torch.ops.crossformer_mm.add_attention_backward)
def add_attention_backward_flops(grad: Sequence[int], kept: Sequence[int], *others: Any, **_: Any) -> int:
    """Operations of :func:`add_attention_backward`: two a product, q kᵀ again, and what is not kept."""
    T, C = grad
    linear, batched = (8, 5) if kept[0] else (11, 6)
    return 2 * (T * linear * C * C + batched * product(C, others[-5:]))
