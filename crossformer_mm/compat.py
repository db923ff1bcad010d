"""Names of other packages that are private or not promised to stay, in one place.

Each has a test in ``tests/test_compat.py`` that fails with the name of what was renamed.
"""

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn.modules import module as torch_module

# What scaled_dot_product_attention calls on CPUs where its mask needs no gradient.
CPU_ATTENTION = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu


def is_plain_call(x: Tensor) -> bool:
    """Whether ``x`` is an ordinary tensor and nothing traces, transforms or intercepts what is computed.

    Counters and tools that watch operators through a dispatch mode count as ordinary here: see
    :func:`is_watched`.
    """
    return (
        not torch.compiler.is_compiling()
        and type(x) in (Tensor, nn.Parameter)
        and torch._C._functorch.maybe_current_level() is None
    )


def is_watched() -> bool:
    """Whether a tracer, a mode, forward-mode differentiation or hooks of all modules see each operator."""
    return (
        torch.jit.is_tracing()
        or torch._C._len_torch_dispatch_stack() > 0
        or torch._C._len_torch_function_stack() > 0
        or forward_ad._current_level >= 0
        or torch_module._has_any_global_hook()
    )


def has_hooks(module: nn.Module) -> bool:
    """Whether a forward or backward hook of any kind is registered on ``module``."""
    return bool(
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
    )
