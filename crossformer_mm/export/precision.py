"""The weights of an exported model in float16."""

import copy
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import torch.nn.functional as F
from mmengine.model import BaseModel
from torch import Tensor, nn
from torch.autograd import Function

from ..compat import replace_convolution, tree_map

_NOT_EXPORTED = ('data_preprocessor', 'auxiliary_head')
_CONTAINERS = ('roi_head',)  # whose parts are called one by one, as those of a list


def in_float16(model: BaseModel) -> BaseModel:
    """Copy a model, with the backbone, the neck and the heads in float16.

    What is computed between them, such as boxes and scores, stays in float32: each part converts its inputs
    and outputs.

    Args:
        model: A model of one of the toolboxes.
    """
    model = copy.deepcopy(model)
    for part in _networks(model):
        part.half()
        part.register_forward_pre_hook(lambda part, inputs: _cast(inputs, 'half'))
        part.register_forward_hook(lambda part, inputs, outputs: _cast(outputs, 'float'))
        for layer in part.modules():
            if isinstance(layer, nn.Conv2d) and layer.padding_mode == 'zeros':
                settings = (layer.stride, layer.padding, layer.dilation, layer.groups)
                replace_convolution(layer, partial(_convolve, settings))
    return model


class _Convolution(Function):
    """A convolution in float16 that PyTorch computes in float32: for float16, CPUs take 20 times as long."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        stride: Any,
        padding: Any,
        dilation: Any,
        groups: int,
    ) -> Tensor:
        x, weight, bias = _cast((x, weight, bias), 'float')
        return F.conv2d(x, weight, bias, stride, padding, dilation, groups).half()

    @staticmethod
    def symbolic(
        g: Any, x: Any, weight: Any, bias: Any, stride: Any, padding: Any, dilation: Any, groups: int
    ) -> Any:
        tensors = [x, weight] if bias is None else [x, weight, bias]
        settings = {'strides_i': stride, 'pads_i': padding * 2, 'dilations_i': dilation, 'group_i': groups}
        return g.op('Conv', *tensors, **settings)


def _convolve(settings: Sequence[Any], *tensors: Tensor | None) -> Tensor:
    return _Convolution.apply(*tensors, *settings)


def _networks(model: nn.Module) -> Iterator[nn.Module]:
    for name, part in model.named_children():
        if isinstance(part, nn.ModuleList) or name in _CONTAINERS:
            yield from _networks(part)
        elif name not in _NOT_EXPORTED:
            yield part


def _cast(values: Any, method: str) -> Any:
    """Convert the floating-point tensors in nested tuples and lists."""

    def convert(value: Any) -> Any:
        is_number = isinstance(value, Tensor) and value.is_floating_point()
        return getattr(value, method)() if is_number else value

    return tree_map(convert, values)
