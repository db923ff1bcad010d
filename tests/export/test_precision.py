"""Tracing float16 in reasonable time."""

import torch

from crossformer_mm.compat import TorchDispatchMode
from crossformer_mm.export.precision import FastHalf


class Seen(TorchDispatchMode):
    """Notes the types of what is multiplied."""

    def __init__(self) -> None:
        super().__init__()
        self.types: list[torch.dtype] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func in (torch.ops.aten.convolution.default, torch.ops.aten.addmm.default):
            self.types += {x.dtype for x in args if isinstance(x, torch.Tensor)}
        return func(*args, **(kwargs or {}))


def test_products_of_float16_are_computed_in_float32() -> None:
    x = torch.rand(1, 3, 8, 8)
    layers = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Flatten(), torch.nn.Linear(144, 5))
    expected = layers(x)
    layers.half()
    with torch.no_grad(), Seen() as seen, FastHalf():
        y = layers(x.half())
    assert seen.types == [torch.float32] * 2
    assert y.dtype == torch.float16
    torch.testing.assert_close(y.float(), expected, rtol=0, atol=2e-3)
