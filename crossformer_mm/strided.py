"""Convolutions of stride 2 in training on CPUs: the gradient of the weights as products of matrices.

Forward and the gradient of the input run at the speed of such products already. That of the weights does not:
for the six convolutions between the stages of S, with 2×3×512×640 float32 images on two x86-64 cores with
AVX2, it takes 190 ms with oneDNN and 110 ms here; a whole training step takes 2 % less time.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.library import custom_op
from torch.utils.flop_counter import register_flop_formula

from .chunked import add_product

PATCHES = 1024  # laid out at a time; 512 and 2048 took longer on some of the maps


class StridedConv(torch.autograd.Function):
    """``F.conv2d(x, weight, bias, stride, padding)`` of square kernels, one dtype throughout."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, stride: int, padding: int) -> Tensor:
        """(B, C, H, W), (O, C, k, k) and (O) → (B, O, h, w)."""
        ctx.save_for_backward(x, weight)
        ctx.stride, ctx.padding = stride, padding
        return F.conv2d(x, weight, bias, stride, padding)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """The gradients of ``x``, ``weight`` and ``bias``, of those that need one."""
        x, weight = ctx.saved_tensors
        stride, padding, (of_x, of_weight, of_bias, *_) = ctx.stride, ctx.padding, ctx.needs_input_grad
        grad_x = grad_weight = None
        if of_x:
            geometry = ([stride] * 2, [padding] * 2, [1, 1], False, [0, 0], 1, [True, False, False])
            grad_x = torch.ops.aten.convolution_backward(grad, x, weight, None, *geometry)[0]
        if of_weight:
            grad_weight = weight_gradient(grad, x, weight.shape[2], stride, padding)
        return grad_x, grad_weight, grad.sum((0, 2, 3)) if of_bias else None, None, None


@custom_op('crossformer_mm::weight_gradient', mutates_args=())
def weight_gradient(grad: Tensor, x: Tensor, kernel: int, stride: int, padding: int) -> Tensor:
    """The gradient of a convolution's weight.

    Args:
        grad: (B, O, h, w), of the convolution's output.
        x: (B, C, H, W), its input.
        kernel: k, rows and columns of the kernel.
        stride: Of the convolution.
        padding: Zeros on each side of the input.

    Returns:
        (O, C, k, k) of the dtype of ``x``, added up in float32 at least.
    """
    O, C = grad.shape[1], x.shape[1]
    total = x.new_zeros(O, kernel * kernel * C, dtype=torch.promote_types(x.dtype, torch.float32))
    for g, patches in _pieces(grad, x, kernel, stride, padding):
        add_product(total, g, patches)
    # (O, k·k·C) → (O, C, k, k)
    return total.to(x.dtype).view(O, kernel, kernel, C).permute(0, 3, 1, 2).contiguous()


def _pieces(
    grad: Tensor, x: Tensor, kernel: int, stride: int, padding: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Pieces of ``grad``, (P, O), and of the patches that gave the output there, (P, k·k·C)."""
    x = F.pad(x.permute(0, 2, 3, 1), (0, 0, padding, padding, padding, padding))
    # (B, H, W, C) → (B, h, w, C, k, k) → (B, h, w, k, k, C), with nothing copied
    patches = x.unfold(1, kernel, stride).unfold(2, kernel, stride).permute(0, 1, 2, 4, 5, 3)
    grad = grad.permute(0, 2, 3, 1)
    rows = max(1, PATCHES // grad.shape[2])
    for image_grad, image_patches in zip(grad, patches, strict=True):
        for g, p in zip(image_grad.split(rows), image_patches.split(rows), strict=True):
            yield g.reshape(-1, g.shape[2]), p.reshape(g.shape[0] * g.shape[1], -1)


weight_gradient.register_fake(
    lambda grad, x, kernel, *_: x.new_empty(grad.shape[1], x.shape[1], kernel, kernel)
)


@register_flop_formula(torch.ops.crossformer_mm.weight_gradient)
def weight_gradient_flops(grad: Sequence[int], x: Sequence[int], kernel: int, *_: Any, **__: Any) -> int:
    """Operations of :func:`weight_gradient`, two a multiply-add, for PyTorch's FLOP counter; takes shapes."""
    B, O, h, w = grad
    return 2 * B * O * h * w * x[1] * kernel * kernel
