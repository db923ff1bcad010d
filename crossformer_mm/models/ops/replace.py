"""Decide where the kernels replace layers of the network."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ...compat import has_hooks, is_dense, is_ordinary, is_transformed, is_watched


class Layers:
    """The layers that a kernel replaces.

    Args:
        types: The type of each layer by its name in the module that contains it, outer layers first.
    """

    def __init__(self, types: Mapping[str, type[nn.Module]]) -> None:
        self.expected = [(name.split('.'), kind, kind.forward) for name, kind in types.items()]

    def are_unmodified(self, module: nn.Module, dtypes: tuple[torch.dtype, ...]) -> bool:
        """Whether each of these layers in ``module`` passes :func:`is_unmodified`."""
        for names, kind, forward in self.expected:
            layer = module
            for name in names:
                layer = layer._modules[name]
            if not is_unmodified(layer, kind, forward, dtypes):
                return False
        return True


def replaces_branches(block: nn.Module, x: Tensor) -> bool:
    """Whether :func:`.branches.add_branches` computes the residual branches of a block of the network."""
    if not _kernels_apply(x) or not block.replaceable.are_unmodified(block, _dtypes_of_weights(x)):
        return False
    if block.attn.pos is None:  # the kernel for attention needs biases
        return False
    # Compiled code cannot depend on which images are dropped.
    return not (torch.compiler.is_compiling() and block.drop_path.training and block.drop_path.rate)


def replaces_convs(convs: nn.ModuleList, x: Tensor) -> bool:
    """Whether :func:`.cells.embed_cells` computes convolutions of one stride; it does for few channels.

    Compiled programs use the convolutions, so that they do not depend on whether the stride divides a size.
    """
    if torch.compiler.is_compiling() or x.shape[1] >= 8 or not _kernels_apply(x):
        return False
    return all(
        is_unmodified(conv, nn.Conv2d, _CONV_FORWARD, _dtypes_of_weights(x))
        and conv.stride == (convs.stride,) * 2
        for conv in convs
    )


def compute_dtype(x: Tensor) -> torch.dtype:
    """The dtype of matrix products with ``x``: autocast's if it is on."""
    return torch.get_autocast_dtype('cpu') if torch.is_autocast_enabled('cpu') else x.dtype


def is_unmodified(
    layer: nn.Module, kind: type[nn.Module], forward: Callable, dtypes: tuple[torch.dtype, ...]
) -> bool:
    """Whether a layer computes what its type defines, with settings that the kernels support.

    Other types (adapters, quantised or parametrised layers, subclasses), a patched ``forward``, hooks of any
    kind, active dropout, and weights other than plain CPU tensors of ``dtypes`` are modifications.

    Args:
        layer: The layer.
        kind: The expected type.
        forward: The original ``forward`` of this type.
        dtypes: Supported dtypes of the weights.
    """
    if type(layer) is not kind or kind.forward is not forward or 'forward' in layer.__dict__:
        return False
    if has_hooks(layer) or (kind in KNOWN_SETTINGS and not KNOWN_SETTINGS[kind](layer)):
        return False
    weights = (layer.weight, layer.bias) if kind in (nn.LayerNorm, nn.Linear, nn.Conv2d) else ()
    return all(_is_plain_weight(weight, dtypes) for weight in weights)


def _kernels_apply(x: Tensor) -> bool:
    """Whether the kernels may process ``x`` in the current context.

    They may under ``torch.compile`` and ``torch.export``, as custom operators, but not for ONNX, which does
    not know them.
    """
    if x.device.type != 'cpu' or not x.is_floating_point() or is_transformed():
        return False
    if torch.is_autocast_enabled('cpu') and x.dtype not in (torch.float32, compute_dtype(x)):
        return False  # autocast has its own rules for these
    return torch.compiler.is_compiling() or (is_ordinary(x) and not is_watched())


def _dtypes_of_weights(x: Tensor) -> tuple[torch.dtype, ...]:
    """Supported dtypes of weights; for others, the layers raise an error."""
    return (x.dtype, torch.float32) if torch.is_autocast_enabled('cpu') else (x.dtype,)


def _is_plain_weight(weight: Tensor | None, dtypes: tuple[torch.dtype, ...]) -> bool:
    return (
        is_dense(weight)
        and weight.device.type == 'cpu'
        and weight.layout is torch.strided
        and weight.dtype in dtypes
    )


def _cells_support(conv: nn.Conv2d) -> bool:
    """Whether a kernel is as wide as an even stride or a multiple of twice the stride, and centred on it."""
    (k, k2), (s, s2) = conv.kernel_size, conv.stride
    return (
        (k, s) == (k2, s2)
        and s % 2 == 0
        and (k == s or k % (2 * s) == 0)
        and conv.padding == ((k - s) // 2,) * 2
        and (conv.dilation, conv.groups, conv.padding_mode) == ((1, 1), 1, 'zeros')
    )


_CONV_FORWARD = nn.Conv2d.forward
KNOWN_SETTINGS: dict[type[nn.Module], Callable[[Any], bool]] = {
    nn.LayerNorm: lambda layer: len(layer.normalized_shape) == 1,
    nn.GELU: lambda layer: layer.approximate == 'none',
    nn.Dropout: lambda layer: not (layer.training and layer.p),
    nn.Conv2d: _cells_support,
}
