"""The residual branches of a block on CPUs, a chunk of tokens at a time.

A branch makes tensors up to four times as wide as the tokens. Over a whole map they leave the caches, and
above 32 MB the C library gives their memory back to the system and takes it anew, page by page, each time.
Chunk by chunk they stay small: on two x86-64 cores an MLP of stage 1 at 800×1216 takes 41 ms instead of 88 in
float32, and 13 instead of 39 in bfloat16. Backward computes them again instead of keeping them, so that a
block keeps two tensors of its width, not sixteen.

Letters as in :mod:`.attention`; T = B·H·W tokens.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import Function, once_differentiable

from .attention import (
    attend_runs,
    attend_runs_backward,
    on_device,
    pairwise_biases,
    table_gradient,
    zero_biases,
)
from .grouping import Run, find_groups, split_runs

CHUNK = 4096  # tokens; 2048 and 8192 were measured within the noise of it
NORM_EPS = 1e-5

_in_one_dtype = torch.autocast('cpu', enabled=False)


def suits_chunks(x: Tensor, block: nn.Module, layers: Iterable[nn.Module]) -> bool:
    """Whether the functions here are the way to compute on ``x``: the one place that decides.

    GPUs have no such caches, and a compiler is given the operations one by one, to fuse as it sees fit. A
    block with layers that were replaced (adapters, quantisation) or are listened to runs layer by layer.
    """
    if x.device.type != 'cpu' or torch.compiler.is_compiling():
        return False
    listened = any(module._forward_hooks or module._forward_pre_hooks for module in block.modules())
    return not listened and all(type(layer) in (nn.LayerNorm, nn.Linear) for layer in layers)


def in_autocast_dtype(x: Tensor) -> Tensor:
    """``x`` in the dtype that autocast computes in on CPUs, where it is on."""
    return x.to(torch.get_autocast_dtype('cpu')) if torch.is_autocast_enabled('cpu') else x


def add_attention(
    x: Tensor,
    scale: float,
    size: tuple[int, int, int, int, int],
    table: Tensor,
    layers: tuple[nn.LayerNorm, nn.Linear, nn.Linear],
) -> Tensor:
    """x + scale · proj(attention(qkv(norm(x)))), inside groups of tokens.

    Args:
        x: (T, C) of (B, H, W) maps.
        scale: What the branch is multiplied with.
        size: B, H, W, G, I.
        table: Biases of offsets, as :func:`.attention.attend` takes them.
        layers: norm, qkv and proj.

    Returns:
        (T, C) of the dtype of ``x``, in which the products are computed.
    """
    return _AddAttention.apply(x, scale, size, table, *_weights(layers))


def add_mlp(x: Tensor, scale: float, layers: tuple[nn.LayerNorm, nn.Linear, nn.Linear]) -> Tensor:
    """x + scale · fc2(gelu(fc1(norm(x)))), as :func:`add_attention`, with norm, fc1 and fc2 as ``layers``."""
    return _AddMLP.apply(x, scale, *_weights(layers))


class _AddMLP(Function):
    @staticmethod
    @_in_one_dtype
    def forward(ctx: Any, x: Tensor, scale: float, *weights: Tensor) -> Tensor:
        ctx.scale = scale
        ctx.save_for_backward(x, *weights)
        norm, (w1, b1, w2, b2) = weights[:2], _cast(weights[2:], x.dtype)
        out = torch.empty_like(x)
        for tokens, result in zip(x.split(CHUNK), out.split(CHUNK), strict=True):
            normed = _norm(tokens, norm)[0].to(x.dtype)
            hidden = F.gelu(F.linear(normed, w1, b1))
            torch.addmm(b2, hidden, w2.T, beta=scale, alpha=scale, out=result).add_(tokens)
        return out

    @staticmethod
    @once_differentiable
    @_in_one_dtype
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, *weights = ctx.saved_tensors
        sums = _Sums(weights)
        norm, (w1, b1, w2, _) = weights[:2], _cast(weights[2:], x.dtype)
        grad_x = torch.empty_like(x)
        chunks = (tensor.split(CHUNK) for tensor in (x, grad, grad_x))
        for tokens, g, result in zip(*chunks, strict=True):
            normed, *moments = _norm(tokens, norm)
            normed = normed.to(x.dtype)
            hidden = F.linear(normed, w1, b1)
            grad_out = g * ctx.scale
            sums.add_linear(4, grad_out, F.gelu(hidden))
            grad_hidden = torch.ops.aten.gelu_backward(grad_out @ w2, hidden)
            sums.add_linear(2, grad_hidden, normed)
            torch.add(g, sums.add_norm(0, grad_hidden @ w1, tokens, moments, norm), out=result)
        return grad_x, None, *sums.totals()


class _AddAttention(Function):
    @staticmethod
    @_in_one_dtype
    def forward(ctx: Any, x: Tensor, scale: float, size: tuple, table: Tensor, *weights: Tensor) -> Tensor:
        ctx.scale, ctx.size = scale, size
        ctx.save_for_backward(x, table, *weights)
        norm, (w_qkv, b_qkv, w_proj, b_proj) = weights[:2], _cast(weights[2:], x.dtype)
        groups = find_groups(*size)
        biases = {shape: bias.to(x.dtype) for shape, bias in pairwise_biases(table, groups.runs).items()}
        order, inverse = on_device(groups.order, x.device), on_device(groups.inverse, x.device)
        out = torch.empty_like(x)
        for rows, runs in _chunks(groups.runs):
            tokens = x.index_select(0, order[rows])
            normed = _norm(tokens, norm)[0].to(x.dtype)
            attended = attend_runs(F.linear(normed, w_qkv, b_qkv), runs, biases)
            torch.addmm(b_proj, attended, w_proj.T, beta=scale, alpha=scale, out=out[rows]).add_(tokens)
        return out.index_select(0, inverse)

    @staticmethod
    @once_differentiable
    @_in_one_dtype
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, table, *weights = ctx.saved_tensors
        sums = _Sums(weights)
        norm, (w_qkv, b_qkv, w_proj, _) = weights[:2], _cast(weights[2:], x.dtype)
        groups = find_groups(*ctx.size)
        biases = pairwise_biases(table, groups.runs)
        grad_biases = zero_biases(biases)
        order, inverse = on_device(groups.order, x.device), on_device(groups.inverse, x.device)
        grad_x = torch.empty_like(x)
        for rows, runs in _chunks(groups.runs):
            tokens, g = x.index_select(0, order[rows]), grad.index_select(0, order[rows])
            normed, *moments = _norm(tokens, norm)
            normed = normed.to(x.dtype)
            grad_out = g * ctx.scale
            grad_attended, qkv = _wide(grad_out @ w_proj), _wide(F.linear(normed, w_qkv, b_qkv))
            attended = torch.empty_like(grad_attended)
            grad_qkv = attend_runs_backward(grad_attended, qkv, runs, biases, grad_biases, attended).to(
                x.dtype
            )
            sums.add_linear(4, grad_out, attended.to(x.dtype))
            sums.add_linear(2, grad_qkv, normed)
            torch.add(g, sums.add_norm(0, grad_qkv @ w_qkv, tokens, moments, norm), out=grad_x[rows])
        grad_table = table_gradient(table, grad_biases)
        return grad_x.index_select(0, inverse), None, None, grad_table, *sums.totals()


class _Sums:
    """The gradients of a branch's weights, added up over chunks in float32 at least."""

    def __init__(self, weights: Sequence[Tensor]) -> None:
        self.dtypes = [weight.dtype for weight in weights]
        self.sums = [_wide(torch.zeros_like(weight)) for weight in weights]

    def add_linear(self, place: int, grad: Tensor, inputs: Tensor) -> None:
        """Add a linear layer's: of the weight, which stands at ``place``, and of the bias after it."""
        weight, bias = self.sums[place : place + 2]
        if weight.dtype == grad.dtype:
            weight.addmm_(grad.T, inputs)
        else:
            weight += grad.T @ inputs
        bias += grad.sum(0)

    def add_norm(
        self, place: int, grad: Tensor, inputs: Tensor, moments: Sequence[Tensor], norm: Sequence[Tensor]
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


def _norm(x: Tensor, norm: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Layer norm of (T, C), with the mean and the inverse deviation of each token; float32 at least."""
    return torch.native_layer_norm(_wide(x), x.shape[1:], *map(_wide, norm), NORM_EPS)


def _chunks(runs: Sequence[Run]) -> Iterator[tuple[slice, list[Run]]]:
    """Pieces of a layout, and the rows of it that each is."""
    start = 0
    for piece in split_runs(runs, CHUNK):
        stop = start + sum(run.count * run.tokens for run in piece)
        yield slice(start, stop), piece
        start = stop


def _weights(layers: Sequence[nn.LayerNorm | nn.Linear]) -> list[Tensor]:
    return [tensor for layer in layers for tensor in (layer.weight, layer.bias)]


def _wide(tensor: Tensor) -> Tensor:
    """In float32 at least, in which sums over many tokens are exact enough."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def _cast(tensors: Sequence[Tensor], dtype: torch.dtype) -> list[Tensor]:
    return [tensor.to(dtype) for tensor in tensors]
