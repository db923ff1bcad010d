"""Models in float16."""

import copy
from collections.abc import Callable

import torch
from export_models import random_model
from mmengine.config import Config
from torch.utils._python_dispatch import TorchDispatchMode

from crossformer_mm.export.precision import in_float16


class Convolved(TorchDispatchMode):
    """Notes the types of what is convolved."""

    def __init__(self) -> None:
        super().__init__()
        self.types: set[torch.dtype] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.aten.convolution.default:
            self.types |= {x.dtype for x in args if isinstance(x, torch.Tensor)}
        return func(*args, **(kwargs or {}))


def test_convolutions_are_computed_in_float32(narrow_segmentor: Callable[[str], Config]) -> None:
    head = random_model(narrow_segmentor('fpn_crossformer_s')).decode_head
    maps = [torch.rand(1, 16, 32 // 2**i, 32 // 2**i) for i in range(4)]
    wrapper = torch.nn.Module()
    wrapper.decode_head = head
    half = copy.deepcopy(in_float16(wrapper).decode_head)
    with torch.no_grad():
        expected = head(maps)
        with Convolved() as seen:
            found = half(maps)
    assert seen.types == {torch.float32}
    assert {weight.dtype for weight in half.parameters()} == {torch.float16}
    torch.testing.assert_close(found, expected, rtol=0, atol=5e-3 * expected.abs().max().item())
    assert not found.equal(expected)
