"""Strided convolutions against PyTorch's own."""

import pytest
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from crossformer_mm.crossformer import Downsample
from crossformer_mm.strided import StridedConv, weight_gradient

# Batch, channels, height, width, outputs, kernel, stride, padding.
SHAPES = [
    (1, 1, 1, 1, 1, 2, 2, 1),
    (1, 3, 2, 2, 5, 2, 2, 0),
    (2, 4, 9, 7, 3, 2, 2, 0),
    (2, 4, 9, 7, 3, 4, 2, 1),
    (3, 2, 5, 80, 4, 4, 2, 1),
    (1, 2, 4, 2100, 2, 2, 2, 0),  # a row of the output longer than a piece
]


def case(B: int, C: int, H: int, W: int, O: int, k: int, dtype: torch.dtype = torch.float64) -> list:
    torch.manual_seed(0)
    shapes = [(B, C, H, W), (O, C, k, k), (O,)]
    return [torch.randn(shape, dtype=dtype, requires_grad=True) for shape in shapes]


@pytest.mark.parametrize('channels_last', [False, True])
@pytest.mark.parametrize('shape', SHAPES, ids=str)
def test_outputs_and_gradients_are_those_of_the_convolution(shape: tuple, channels_last: bool) -> None:
    *sizes, stride, padding = shape
    x, weight, bias = case(*sizes)
    if channels_last:
        x = x.detach().contiguous(memory_format=torch.channels_last).requires_grad_()
    expected = F.conv2d(x, weight, bias, stride, padding)
    out = StridedConv.apply(x, weight, bias, stride, padding)
    grad = torch.randn_like(expected)
    torch.testing.assert_close(out, expected)
    for ours, theirs in zip(
        torch.autograd.grad(out, (x, weight, bias), grad),
        torch.autograd.grad(expected, (x, weight, bias), grad),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs)


def test_bfloat16_is_added_up_in_float32() -> None:
    torch.manual_seed(0)
    x, grad = torch.randn(2, 8, 64, 96).bfloat16(), torch.randn(2, 6, 32, 48).bfloat16()
    ours = weight_gradient(grad, x, 4, 2, 1)
    weight = torch.zeros(6, 8, 4, 4, dtype=torch.float64, requires_grad=True)
    F.conv2d(x.double(), weight, None, 2, 1).backward(grad.double())
    assert ours.dtype == torch.bfloat16
    # bfloat16 has 8 bits: half a unit in the last of the result, and about as much in all from its pieces.
    largest = weight.grad.abs().max().item()
    torch.testing.assert_close(ours.double(), weight.grad, rtol=2**-8, atol=2**-8 * largest)


def test_a_frozen_layer_gets_no_gradient() -> None:
    x, weight, bias = case(1, 3, 6, 6, 4, 2)
    weight.requires_grad_(False)
    StridedConv.apply(x, weight, bias, 2, 0).sum().backward()
    assert weight.grad is None
    assert x.grad is not None
    assert bias.grad.tolist() == [9.0] * 4


def test_an_input_without_gradient_gets_none() -> None:
    x, weight, bias = case(1, 3, 6, 6, 4, 2)
    x.requires_grad_(False)
    StridedConv.apply(x, weight, bias, 2, 0).sum().backward()
    assert x.grad is None
    torch.testing.assert_close(weight.grad[0, 0], x[0, 0].view(3, 2, 3, 2).sum((0, 2)))


def test_the_operator_keeps_the_rules_of_operators() -> None:
    x, weight, _ = (t.detach() for t in case(2, 4, 9, 7, 3, 4))
    grad = torch.randn_like(F.conv2d(x, weight, None, 2, 1))
    torch.library.opcheck(weight_gradient, (grad, x, 4, 2, 1))


def test_operations_are_counted_like_those_of_a_convolution() -> None:
    def operations(convolve: callable) -> int:
        with FlopCounterMode(display=False) as counter:
            convolve().sum().backward()
        return counter.get_total_flops()

    x, weight, bias = case(2, 4, 8, 12, 6, 4)
    assert operations(lambda: StridedConv.apply(x, weight, bias, 2, 1)) == operations(
        lambda: F.conv2d(x, weight, bias, 2, 1)
    )


def test_a_layer_that_is_listened_to_is_called() -> None:
    embedding, heard = Downsample(16), []
    embedding.reductions[0].register_forward_hook(lambda *_: heard.append(True))
    embedding(torch.randn(1, 4, 4, 16))
    assert heard


@pytest.mark.parametrize('dtype', [None, torch.bfloat16])
def test_an_embedding_trains_alike_with_and_without(
    dtype: torch.dtype | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    embedding, x = Downsample(16), torch.randn(2, 9, 14, 16)

    def gradients() -> list[torch.Tensor]:
        embedding.zero_grad()
        with torch.autocast('cpu', dtype=dtype, enabled=dtype is not None):
            out = embedding(x)
        out.float().square().mean().backward()
        return [out, *(weight.grad for weight in embedding.parameters())]

    ours = gradients()
    monkeypatch.setattr('crossformer_mm.crossformer.suits_chunks', lambda *_: False)
    tolerance = dict(rtol=1e-4, atol=1e-6) if dtype is None else dict(rtol=0.03, atol=2e-3)
    for a, b in zip(ours, gradients(), strict=True):
        torch.testing.assert_close(a, b, **tolerance)
