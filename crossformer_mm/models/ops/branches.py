"""The residual branches of a block, one chunk of tokens at a time.

A branch creates tensors up to four times as wide as its input. For a whole map they exceed the caches, and
above 32 MB the C library returns their memory to the system and requests it again each time; for a chunk they
stay small. For the backward pass a branch saves the outputs of its first matrix products, ten times a block's
width in total; with activation checkpointing, only its input.

Notation: as in :mod:`..grouping`.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import wraps
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.library import custom_op, register_autograd

from ...compat import is_batched
from ..attention import attend
from ..grouping import GroupBlock, Groups, find_groups, reorder, split_blocks
from .attention import attend_blocks, attend_blocks_backward, table_gradient
from .replace import compute_dtype

CHUNK = 2048  # tokens per chunk


def _in_one_dtype(function: Callable) -> Callable:
    """Disable autocast in ``function``. (A shared ``torch.autocast`` object would mix up threads' dtypes.)"""

    @wraps(function)
    def run(*args: Any) -> Any:
        with torch.autocast('cpu', enabled=False):
            return function(*args)

    return run


def add_branches(block: nn.Module, x: Tensor) -> Tensor:
    """Add both residual branches of a block of the network to x, (B, H, W, C).

    Branches of images that stochastic depth drops are not computed.
    """
    save = block.training and torch.is_grad_enabled() and not block.with_cp
    x = _add_kept(block.drop_path, x, lambda x, scale: _add_attention(block, x, scale, save))
    return _add_kept(block.drop_path, x, lambda x, scale: _add_mlp(block, x, scale, save))


def _add_kept(drop_path: nn.Module, x: Tensor, add: Callable[[Tensor, float], Tensor]) -> Tensor:
    """``add(x, factor)`` for the images whose branch stochastic depth keeps."""
    if not drop_path.training or drop_path.rate == 0:
        return add(x, 1.0)
    kept = drop_path.draw(x).nonzero().flatten()
    if len(kept) == len(x):
        return add(x, drop_path.scale)
    return x.index_copy(0, kept, add(x.index_select(0, kept), drop_path.scale))


def _add_attention(block: nn.Module, x: Tensor, scale: float, save: bool) -> Tensor:
    B, H, W, C = x.shape
    grouping = block.attn.groups(H, W)
    tensors = (block.attn.biases(H, W, grouping), *_weights(block.norm1, block.attn.qkv, block.attn.proj))
    options = (scale, block.norm1.eps, compute_dtype(x), save)
    return add_attention(x.reshape(-1, C), *tensors, B, H, W, *grouping[:2], *options)[0].view_as(x)


def _add_mlp(block: nn.Module, x: Tensor, scale: float, save: bool) -> Tensor:
    weights = _weights(block.norm2, block.mlp.fc1, block.mlp.fc2)
    options = (scale, block.norm2.eps, compute_dtype(x), save)
    return add_mlp(x.reshape(-1, x.shape[-1]), *weights, *options)[0].view_as(x)


def _weights(*layers: nn.LayerNorm | nn.Linear) -> list[Tensor]:
    return [tensor for layer in layers for tensor in (layer.weight, layer.bias)]


@custom_op('crossformer_mm::add_mlp', mutates_args=())
@_in_one_dtype
def add_mlp(
    x: Tensor,
    norm_w: Tensor,
    norm_b: Tensor,
    w1: Tensor,
    b1: Tensor,
    w2: Tensor,
    b2: Tensor,
    scale: float,
    eps: float,
    dtype: torch.dtype,
    save: bool,
) -> tuple[Tensor, Tensor]:
    """x + scale · fc2(gelu(fc1(norm(x)))).

    Args:
        x: (T, C).
        norm_w: (C), the layer norm's weight.
        norm_b: (C), its bias.
        w1: (4C, C), the first linear layer's weight.
        b1: (4C), its bias.
        w2: (C, 4C), the second linear layer's weight.
        b2: (C), its bias.
        scale: Factor of the branch.
        eps: Epsilon of the layer norm.
        dtype: Dtype of the matrix products.
        save: Whether to save the output of fc1 for the backward pass.

    Returns:
        (T, C) in the dtype of ``x``, and the saved tensor, (T or 0, 4C).
    """
    w1, b1, w2, b2 = _cast((w1, b1, w2, b2), dtype)
    out, saved = torch.empty_like(x), x.new_empty(len(x) if save else 0, len(b1), dtype=dtype)
    for rows in _slices(len(x)):
        normed = _norm(x[rows], norm_w, norm_b, eps)[0].to(dtype)
        hidden = torch.addmm(b1, normed, w1.T, out=saved[rows] if save else None)
        _add_linear(x[rows], F.gelu(hidden), w2, b2, scale, out[rows])
    return out, saved


@custom_op('crossformer_mm::add_mlp_backward', mutates_args=())
@_in_one_dtype
def add_mlp_backward(
    grad: Tensor,
    saved: Tensor,
    x: Tensor,
    norm_w: Tensor,
    norm_b: Tensor,
    w1: Tensor,
    b1: Tensor,
    w2: Tensor,
    b2: Tensor,
    scale: float,
    eps: float,
    dtype: torch.dtype,
) -> list[Tensor]:
    """The gradients of :func:`add_mlp` for ``x`` and the weights, from ``grad`` (T, C) of its first output.

    ``saved`` is its second output; if it is empty, it is recomputed.
    """
    sums = _Sums(norm_w, norm_b, w1, b1, w2, b2)
    w1, b1, w2 = _cast((w1, b1, w2), dtype)
    grad_x = torch.empty_like(x)
    for rows in _slices(len(x)):
        normed, *moments = _norm(x[rows], norm_w, norm_b, eps)
        normed = normed.to(dtype)
        hidden = saved[rows] if len(saved) else F.linear(normed, w1, b1)
        grad_out = (grad[rows] * scale).to(dtype)
        sums.add_linear(4, grad_out, F.gelu(hidden))
        grad_hidden = torch.ops.aten.gelu_backward(grad_out @ w2, hidden)
        sums.add_linear(2, grad_hidden, normed)
        grad_input = sums.add_norm(0, grad_hidden @ w1, x[rows], moments, norm_w, norm_b)
        torch.add(grad[rows], grad_input, out=grad_x[rows])
    return [grad_x, *sums.totals()]


@_in_one_dtype
def plain_mlp(
    x: Tensor,
    norm_w: Tensor,
    norm_b: Tensor,
    w1: Tensor,
    b1: Tensor,
    w2: Tensor,
    b2: Tensor,
    scale: float,
    eps: float,
    dtype: torch.dtype,
) -> Tensor:
    """:func:`add_mlp` in operations that can be differentiated any number of times."""
    w1, b1, w2, b2 = _cast((w1, b1, w2, b2), dtype)
    hidden = F.gelu(F.linear(F.layer_norm(x, x.shape[1:], norm_w, norm_b, eps).to(dtype), w1, b1))
    return x + (scale * F.linear(hidden, w2, b2)).to(x.dtype)


@custom_op('crossformer_mm::add_attention', mutates_args=())
@_in_one_dtype
def add_attention(
    x: Tensor,
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
    span: int | None,
    interval: int,
    scale: float,
    eps: float,
    dtype: torch.dtype,
    save: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """x + scale · proj(attention(qkv(norm(x)))), within groups of tokens.

    Args:
        x: (T, C) of (B, H, W) maps.
        table: Biases of offsets, as for :func:`..attention.pair_biases`.
        norm_w: (C), the layer norm's weight.
        norm_b: (C), its bias.
        w_qkv: (3C, C), the weight of the linear layer for queries, keys and values, laid out as 3 × h × d.
        b_qkv: (3C), its bias.
        w_proj: (C, C), the weight of the linear layer after attention.
        b_proj: (C), its bias.
        B: Maps in the batch.
        H: Rows of a map.
        W: Columns of a map.
        span: Tokens of a window, as for :func:`..grouping.find_groups`.
        interval: I.
        scale: Factor of the branch.
        eps: Epsilon of the layer norm.
        dtype: Dtype of the matrix products.
        save: Whether to save the outputs of qkv and attention for the backward pass.

    Returns:
        (T, C) in the dtype of ``x``; and the saved tensors, in the order of the groups, (T or 0, 3C) and
        (T or 0, C).
    """
    w_qkv, b_qkv, w_proj, b_proj = _cast((w_qkv, b_qkv, w_proj, b_proj), dtype)
    groups = find_groups(x, B, H, W, span, interval)
    table = table.to(dtype)
    out, T, width = torch.empty_like(x), len(x) if save else 0, w_proj.shape[1]
    saved_qkv, saved_attended = (x.new_empty(T, size, dtype=dtype) for size in (len(b_qkv), width))
    for rows, blocks in _chunks(groups):
        tokens = x.index_select(0, groups.order[rows])
        normed = _norm(tokens, norm_w, norm_b, eps)[0].to(dtype)
        qkv = torch.addmm(b_qkv, normed, w_qkv.T, out=saved_qkv[rows] if save else None)
        attended = saved_attended[rows] if save else normed.new_empty(len(normed), width)
        attend_blocks(qkv, table, blocks, attended)
        _add_linear(tokens, attended, w_proj, b_proj, scale, tokens)
        out.index_copy_(0, groups.order[rows], tokens)
    return out, saved_qkv, saved_attended


@custom_op('crossformer_mm::add_attention_backward', mutates_args=())
@_in_one_dtype
def add_attention_backward(
    grad: Tensor,
    saved_qkv: Tensor,
    saved_attended: Tensor,
    x: Tensor,
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
    span: int | None,
    interval: int,
    scale: float,
    eps: float,
    dtype: torch.dtype,
) -> list[Tensor]:
    """The gradients of :func:`add_attention` for ``x``, ``table`` and the weights, from ``grad`` (T, C).

    ``saved_qkv`` and ``saved_attended`` are its other outputs; if they are empty, they are recomputed.
    """
    sums = _Sums(norm_w, norm_b, w_qkv, b_qkv, w_proj, b_proj)
    w_qkv, b_qkv, w_proj = _cast((w_qkv, b_qkv, w_proj), dtype)
    groups = find_groups(x, B, H, W, span, interval)
    biases, grad_biases = _at_least_float32(table), {}
    grad_x = torch.empty_like(x)
    for rows, blocks in _chunks(groups):
        order = groups.order[rows]
        tokens, g = x.index_select(0, order), grad.index_select(0, order)
        normed, *moments = _norm(tokens, norm_w, norm_b, eps)
        normed = normed.to(dtype)
        grad_out = (g * scale).to(dtype)
        if len(saved_qkv):
            qkv, attended = saved_qkv[rows], saved_attended[rows]
        else:
            qkv, attended = F.linear(normed, w_qkv, b_qkv), normed.new_empty(len(normed), w_proj.shape[1])
            attend_blocks(qkv, table.to(dtype), blocks, attended)
        sums.add_linear(4, grad_out, attended)
        grad_qkv = attend_blocks_backward(grad_out @ w_proj, qkv, biases, blocks, grad_biases)
        sums.add_linear(2, grad_qkv, normed)
        g += sums.add_norm(0, grad_qkv @ w_qkv, tokens, moments, norm_w, norm_b)
        grad_x.index_copy_(0, order, g)
    return [grad_x, table_gradient(table, grad_biases), *sums.totals()]


@_in_one_dtype
def plain_attention(
    x: Tensor,
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
    span: int | None,
    interval: int,
    scale: float,
    eps: float,
    dtype: torch.dtype,
) -> Tensor:
    """:func:`add_attention` in operations that can be differentiated any number of times."""
    w_qkv, b_qkv, w_proj, b_proj = _cast((w_qkv, b_qkv, w_proj, b_proj), dtype)
    groups = find_groups(x, B, H, W, span, interval)
    normed = F.layer_norm(reorder(x[None], groups.order, groups.inverse), x.shape[1:], norm_w, norm_b, eps)
    attended = attend(F.linear(normed.to(dtype), w_qkv, b_qkv), table, groups.blocks)
    out = reorder(F.linear(attended, w_proj, b_proj), groups.inverse, groups.order)[0]
    return x + (scale * out).to(x.dtype)


def _add_linear(x: Tensor, inputs: Tensor, weight: Tensor, bias: Tensor, scale: float, out: Tensor) -> None:
    """x + scale · (inputs · weightᵀ + bias), into ``out``, which may be ``x``."""
    if x.dtype == inputs.dtype and x is not out:
        torch.addmm(bias, inputs, weight.T, beta=scale, alpha=scale, out=out).add_(x)
    else:
        torch.add(x, F.linear(inputs, weight, bias), alpha=scale, out=out)


class _Sums:
    """The gradients of a branch's weights, accumulated over chunks in at least float32."""

    def __init__(self, *weights: Tensor) -> None:
        self.dtypes = [weight.dtype for weight in weights]
        self.sums = [_at_least_float32(torch.zeros_like(weight)) for weight in weights]

    def add_linear(self, index: int, grad: Tensor, inputs: Tensor) -> None:
        """Add the gradients of a linear layer: its weight at ``index``, and its bias after it."""
        weight, bias = self.sums[index : index + 2]
        if weight.dtype == grad.dtype:
            weight.addmm_(grad.T, inputs)
        else:
            weight += grad.T @ inputs
        bias += grad.sum(0)

    def add_norm(
        self, index: int, grad: Tensor, inputs: Tensor, moments: Sequence[Tensor], *norm: Tensor
    ) -> Tensor:
        """Add the gradients of a layer norm, as in :meth:`add_linear`; returns the gradient of its inputs."""
        grad_inputs, *grads = torch.ops.aten.native_layer_norm_backward(
            _at_least_float32(grad),
            _at_least_float32(inputs),
            inputs.shape[1:],
            *moments,
            *map(_at_least_float32, norm),
            [True] * 3,
        )
        for total, grad_weight in zip(self.sums[index : index + 2], grads, strict=True):
            total += grad_weight
        return grad_inputs.to(inputs.dtype)

    def totals(self) -> list[Tensor]:
        """The gradients, in the dtypes of the weights."""
        return [total.to(dtype) for total, dtype in zip(self.sums, self.dtypes, strict=True)]


def _norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """Layer norm of (T, C), with each token's mean and inverse deviation, in at least float32."""
    x, weight, bias = map(_at_least_float32, (x, weight, bias))
    return torch.native_layer_norm(x, x.shape[1:], weight, bias, eps)


def _slices(tokens: int) -> Iterator[slice]:
    """Chunks of rows."""
    return (slice(start, start + CHUNK) for start in range(0, tokens, CHUNK))


def _chunks(groups: Groups) -> Iterator[tuple[slice, list[GroupBlock]]]:
    """Chunks of complete groups: their rows in the order of the groups, and their blocks."""
    start = 0
    for piece in split_blocks(groups.blocks, CHUNK):
        stop = start + sum(block.count * block.tokens for block in piece)
        yield slice(start, stop), piece
        start = stop


def _at_least_float32(tensor: Tensor) -> Tensor:
    """Convert to a dtype that is precise enough for sums over many tokens."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def _cast(tensors: Sequence[Tensor], dtype: torch.dtype) -> list[Tensor]:
    return [tensor.to(dtype) for tensor in tensors]


def _differentiable(
    operator: Callable, backward: Callable, plain: Callable, tensors: int, saved: int
) -> None:
    """Give an operator its backward pass.

    Args:
        operator: Takes ``tensors`` tensors, then plain arguments, of which the last is whether to save.
        backward: Takes the gradient of the operator's first output, the saved outputs, and the operator's
            arguments except the last; returns the tensors' gradients.
        plain: The operator in differentiable operations, for gradients of gradients.
        tensors: Number of tensor arguments.
        saved: Number of saved outputs.
    """

    def setup_context(ctx: Any, inputs: tuple, output: tuple) -> None:
        ctx.arguments = inputs[tensors:-1]
        ctx.mark_non_differentiable(*output[1:])
        ctx.set_materialize_grads(False)  # otherwise zeros of the saved outputs' sizes
        ctx.save_for_backward(*output[1:], *inputs[:tensors])

    def run_backward(ctx: Any, grad: Tensor | None, *_: None) -> tuple[Tensor | None, ...]:
        others = [None] * (len(ctx.arguments) + 1)  # the last is `save`
        if grad is None:
            return *[None] * tensors, *others
        create_graph = torch.is_grad_enabled() and not torch.compiler.is_compiling()
        if create_graph or is_batched(grad):
            saved_inputs = zip(ctx.saved_tensors[saved:], ctx.needs_input_grad, strict=False)
            # aliases, since one input may have been computed from another
            inputs = [
                t.view_as(t) if create_graph else t.detach().requires_grad_(need) for t, need in saved_inputs
            ]
            with torch.enable_grad():
                out = plain(*inputs, *ctx.arguments)
            needed = ctx.needs_input_grad[:tensors]
            wanted = [tensor for tensor, need in zip(inputs, needed, strict=True) if need]
            grads = iter(torch.autograd.grad(out, wanted, grad, create_graph=create_graph))
            return *[next(grads) if need else None for need in needed], *others
        return *backward(grad, *ctx.saved_tensors, *ctx.arguments), *others

    register_autograd(operator, run_backward, setup_context=setup_context)


_differentiable(add_mlp, add_mlp_backward, plain_mlp, tensors=7, saved=1)
_differentiable(add_attention, add_attention_backward, plain_attention, tensors=8, saved=2)


# For compilers: the shapes and dtypes of the operators' outputs.
def _fakes(x: Tensor, dtype: torch.dtype, save: bool, *widths: int) -> tuple[Tensor, ...]:
    saved = (x.new_empty(len(x) if save else 0, width, dtype=dtype) for width in widths)
    return torch.empty_like(x), *saved


add_mlp.register_fake(lambda x, n, m, w1, *args: _fakes(x, *args[-2:], w1.shape[0]))
add_attention.register_fake(
    lambda x, table, n, m, w_qkv, b_qkv, w_proj, *args: _fakes(x, *args[-2:], w_qkv.shape[0], w_proj.shape[1])
)
add_mlp_backward.register_fake(lambda grad, saved, *args: [torch.empty_like(t) for t in args[:7]])
add_attention_backward.register_fake(
    lambda grad, qkv, attended, *args: [torch.empty_like(t) for t in args[:8]]
)
