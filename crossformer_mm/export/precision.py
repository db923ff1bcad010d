"""The weights of an exported model in float16."""

import copy
from collections.abc import Iterator
from typing import Any

import torch
from mmengine.model import BaseModel
from torch import Tensor, nn

from ..compat import TorchDispatchMode, tree_map

_PRODUCTS = [getattr(torch.ops.aten, name).default for name in ('convolution', 'addmm', 'mm', 'bmm')]
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
        part.register_forward_pre_hook(lambda module, inputs: _cast(inputs, 'half'))
        part.register_forward_hook(lambda module, inputs, outputs: _cast(outputs, 'float'))
    return model


class FastHalf(TorchDispatchMode):
    """A context that computes products of float16 in float32, since CPUs can take minutes for them."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call an operator."""
        if func not in _PRODUCTS or args[0].dtype != torch.float16:
            return func(*args, **(kwargs or {}))
        return func(*_cast(args, 'float'), **(kwargs or {})).half()


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
