"""Private and unstable names of other packages.

Each has a test in ``tests/test_compat.py`` that reports a renamed one.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from types import FrameType, ModuleType

import torch
from mmengine.registry import Registry, build_from_cfg
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.autograd import forward_ad
from torch.multiprocessing.reductions import reduce_storage as reduce_storage
from torch.nn.modules import module as torch_module
from torch.utils._python_dispatch import _disable_current_modes
from torch.utils._pytree import tree_map as tree_map  # a public name, in a private module
from torch.utils.data import DataLoader

# The operator that scaled_dot_product_attention calls on CPUs if its mask needs no gradient.
CPU_ATTENTION = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu


def is_ordinary(x: Tensor) -> bool:
    """Whether ``x`` contains numbers, and is not a placeholder in a compiler, mode or transform."""
    return (
        type(x) in (Tensor, nn.Parameter)
        and not torch.compiler.is_compiling()
        and torch._C._functorch.maybe_current_level() is None
    )


def is_dense(weight: Tensor | None) -> bool:
    """Whether ``weight`` is a plain tensor, or a compiler's placeholder for one."""
    stand_in = torch.compiler.is_compiling() and type(weight) is FakeTensor
    return stand_in or type(weight) in (Tensor, nn.Parameter)


def is_transformed() -> bool:
    """Whether the current call is traced, exported to ONNX, or in ``torch.func`` or forward-mode AD."""
    if torch.compiler.is_compiling():
        return torch.onnx.is_in_onnx_export() or torch._C._functorch.maybe_current_level() is not None
    return (
        torch.jit.is_tracing()
        or torch._C._functorch.maybe_current_level() is not None
        or forward_ad._current_level >= 0
    )


def is_traced_for_onnx() -> bool:
    """Whether the current call is exported to ONNX by ``torch.onnx.export(dynamo=False)``."""
    return torch.jit.is_tracing() and torch.onnx.is_in_onnx_export()


class NotFolded(torch.autograd.Function):
    """A constant in an ONNX file, while what is computed from it is computed when the file is loaded.

    Otherwise the exporter computes it and stores the results, which may be much larger.
    """

    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def symbolic(g: object, x: torch.Value) -> torch.Value:
        """To its own shape: an operator that the exporter does not fold, but onnxruntime does."""
        shape = g.op('Constant', value_t=torch.tensor(x.type().sizes()))
        return g.op('Expand', x, shape).setType(x.type())


def is_batched(x: Tensor) -> bool:
    """Whether ``x`` represents a batch in ``vmap`` or ``torch.autograd.grad(is_grads_batched=True)``."""
    return torch._C._functorch.is_batchedtensor(x) or torch._C._functorch.is_legacy_batchedtensor(x)


def is_watched() -> bool:
    """Whether a dispatch or function mode observes all operators, or a hook all modules."""
    return (
        torch._C._len_torch_dispatch_stack() > 0
        or torch._C._len_torch_function_stack() > 0
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


def autocast_is_on(device: torch.device) -> bool:
    """Whether autocast is on for a device; false for devices without it, where torch raises an error."""
    return torch.amp.is_autocast_available(device.type) and torch.is_autocast_enabled(device.type)


@contextmanager
def unseen() -> Iterator[None]:
    """Hide computations from dispatch modes and ``torch.jit.trace``, so that their results are constants."""
    state = torch._C._get_tracing_state()
    with _disable_current_modes():
        if state is None:
            yield
            return
        torch._C._set_tracing_state(None)
        try:
            yield
        finally:
            torch._C._set_tracing_state(state)


def sizes(x: Tensor) -> list[int]:
    """The shape of ``x`` as plain ints, which makes a trace or a compiled program specific to this size."""
    return [len(range(size)) for size in x.shape]  # int() would return a compiler's symbol


def softmax_backward(grad: Tensor, weights: Tensor) -> Tensor:
    """The gradient of the logits over the last axis, from the gradient of their softmax ``weights``."""
    return torch.ops.aten._softmax_backward_data(grad, weights, -1, weights.dtype)


def has_fast_bfloat16() -> bool:
    """Whether this CPU has instructions for bfloat16 that oneDNN uses."""
    return torch.ops.mkldnn._is_mkldnn_bf16_supported()


def is_build_frame(frame: FrameType) -> bool:
    """Whether a frame of a traceback is mmengine's ``build_from_cfg``, which has the config in ``cfg``."""
    return frame.f_code is build_from_cfg.__code__


def import_first(toolbox: ModuleType, module: str) -> None:
    """Let the registries of a toolbox import a module before those that they import themselves.

    Args:
        toolbox: The toolbox's ``registry`` module.
        module: The module's full name.
    """
    scope = toolbox.__name__.partition('.')[0]
    for registry in vars(toolbox).values():
        if isinstance(registry, Registry) and registry.scope == scope and registry._locations:
            registry._locations = [module, *(name for name in registry._locations if name != module)]


def without_data() -> AbstractContextManager:
    """A context in which new tensors have shapes but no values, so that nothing is computed or allocated."""
    return FakeTensorMode(allow_non_fake_inputs=True)


def replace_convolution(
    layer: nn.Conv2d, convolve: Callable[[Tensor, Tensor, Tensor | None], Tensor]
) -> None:
    """Let a layer compute its result with a function of its input, weight and bias."""
    layer._conv_forward = convolve


@contextmanager
def undetached(head: nn.Module | None) -> Iterator[None]:
    """Let the predictions of a dense head of MMDetection keep their gradients inside the block.

    Its ``predict_by_feat`` takes each image's part of the maps with a function that detaches it.

    Args:
        head: The head; others, and None, are left as they are.
    """
    scope = getattr(getattr(type(head), 'predict_by_feat', None), '__globals__', {})
    select = scope.get('select_single_mlvl')
    if select is None:
        yield
        return
    scope['select_single_mlvl'] = lambda maps, image, detach=True: select(maps, image, detach=False)
    try:
        yield
    finally:
        scope['select_single_mlvl'] = select


def end_workers(loader: DataLoader) -> None:
    """End the worker processes that a loader keeps between epochs.

    If the garbage collector ends them, each can block the process for five seconds.
    """
    if loader._iterator is not None:
        loader._iterator._shutdown_workers()
