"""Where the kernels may stand in for layers as written: the one place that decides."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ...compat import has_hooks, is_dense, is_ordinary, is_transformed, is_watched


class Layers:
    """The layers that a kernel stands in for.

    Args:
        types: The type of each, by its place in the module whose part they are, outer ones first.
    """

    def __init__(self, types: Mapping[str, type[nn.Module]]) -> None:
        self.expected = [(place.split('.'), kind, kind.forward) for place, kind in types.items()]

    def are_unmodified(self, module: nn.Module, dtype: torch.dtype) -> bool:
        """Whether ``module`` has them as they were written, in settings that the kernels know.

        Other types (adapters, quantised or parametrised layers, subclasses), a patched ``forward``, hooks of
        any kind, dropout at work, and weights that are no plain CPU tensors of ``dtype`` are modifications.
        """
        for place, kind, forward in self.expected:
            layer = module
            for name in place:
                layer = layer._modules[name]
            if type(layer) is not kind or kind.forward is not forward or 'forward' in layer.__dict__:
                return False
            if has_hooks(layer) or not KNOWN_SETTINGS.get(kind, _any_settings)(layer):
                return False
            if not all(_is_plain_weight(weight, dtype) for weight in layer._parameters.values()):
                return False
        return True


def replaces_branches(block: nn.Module, x: Tensor) -> bool:
    """Whether :func:`.branches.add_branches` computes the residual branches of a block of the network."""
    if torch.compiler.is_compiling() and block.drop_path.training and block.drop_path.rate:
        return False  # which images a compiled step drops cannot decide what it computes
    return _kernels_apply(block, block.replaceable, x)


def replaces_convs(convs: nn.ModuleList, x: Tensor) -> bool:
    """Whether :func:`.cells.embed_cells` computes convolutions of one stride: where channels are few.

    Compilers, which are not to ask whether the stride divides a size, get the convolutions.
    """
    if torch.compiler.is_compiling() or x.shape[1] >= 8:
        return False
    return _kernels_apply(convs, convs.replaceable, x)


def _kernels_apply(module: nn.Module, layers: Layers, x: Tensor) -> bool:
    """Whether kernels for CPUs compute ``layers`` of ``module`` on ``x``.

    Under ``torch.compile`` and ``torch.export`` they do, as operators of this package, but not in a program
    for ONNX, which does not know these.
    """
    if x.device.type != 'cpu' or not x.is_floating_point():
        return False
    if torch.compiler.is_compiling():
        if torch.onnx.is_in_onnx_export():
            return False
    elif not is_ordinary(x) or is_transformed() or is_watched():
        return False
    # Autocast takes weights of any dtype; without it, another dtype than the input's has to raise its error.
    dtype = None if torch.is_autocast_enabled('cpu') else x.dtype
    return layers.are_unmodified(module, dtype)


def _is_plain_weight(weight: Tensor | None, dtype: torch.dtype | None) -> bool:
    return (
        is_dense(weight)
        and weight.device.type == 'cpu'
        and weight.layout is torch.strided
        and (weight.dtype is dtype if dtype else weight.is_floating_point())
    )


def _any_settings(_: nn.Module) -> bool:
    return True


KNOWN_SETTINGS: dict[type[nn.Module], Callable[[Any], bool]] = {
    nn.LayerNorm: lambda layer: len(layer.normalized_shape) == 1,
    nn.GELU: lambda layer: layer.approximate == 'none',
    nn.Dropout: lambda layer: not (layer.training and layer.p),
    nn.Conv2d: lambda conv: (
        conv.stride[0] == conv.stride[1]
        and conv.kernel_size[0] == conv.kernel_size[1]
        and conv.kernel_size[0] in (conv.stride[0], *range(2 * conv.stride[0], 99, 2 * conv.stride[0]))
        and conv.padding == ((conv.kernel_size[0] - conv.stride[0]) // 2,) * 2
        and (conv.dilation, conv.groups, conv.padding_mode) == ((1, 1), 1, 'zeros')
    ),
}
