"""Every private name of another package in use has a test that reports when it is renamed."""

import importlib
import re
from pathlib import Path

import psutil
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader
from torch.utils.flop_counter import FlopCounterMode

from crossformer_mm import compat
from crossformer_mm.utils.swallowing import SWALLOWING


@pytest.mark.parametrize(
    'name',
    [
        'torch._C._functorch.maybe_current_level',
        'torch._C._functorch.is_batchedtensor',
        'torch._C._functorch.is_legacy_batchedtensor',
        'torch._C._len_torch_dispatch_stack',
        'torch._C._len_torch_function_stack',
        'torch._C._get_tracing_state',
        'torch._C._set_tracing_state',
        'torch._subclasses.fake_tensor.FakeTensor',
        'torch._subclasses.fake_tensor.FakeTensorMode',
        'torch.autograd.forward_ad._current_level',
        'torch.multiprocessing.reductions.reduce_storage',
        'torch.nn.modules.module._has_any_global_hook',
        'torch.utils._python_dispatch._disable_current_modes',
        'torch.ops.aten._scaled_dot_product_flash_attention_for_cpu',
        'torch.ops.aten._softmax_backward_data',
        'torch.ops.mkldnn._is_mkldnn_bf16_supported',
        'torch.utils._pytree.tree_map',
        'torch.nn.Module._load_from_state_dict',  # in models/crossformer.py, which overrides it
    ],
)
def test_names_are_there(name: str) -> None:
    owner = torch
    for part in name.split('.')[1:]:
        assert hasattr(owner, part), f'torch renamed {name}, which crossformer_mm/compat.py uses'
        owner = getattr(owner, part)


def test_the_gradient_of_softmax() -> None:
    logits, grad = torch.randn(2, 3, requires_grad=True), torch.randn(2, 3)
    weights = logits.softmax(-1)
    weights.backward(grad)
    torch.testing.assert_close(compat.softmax_backward(grad, weights.detach()), logits.grad)


def test_the_convolution_of_a_layer_is_replaced() -> None:
    layer = nn.Conv2d(1, 1, 3)
    compat.replace_convolution(
        layer, lambda x, weight, bias: (x.shape, weight is layer.weight, bias is layer.bias)
    )
    assert layer(torch.ones(1, 1, 4, 4)) == ((1, 1, 4, 4), True, True)


def test_what_sees_operators_is_noticed() -> None:
    assert not compat.is_watched()
    with FlopCounterMode(display=False):
        assert compat.is_watched()
    with torch.device('cpu'):
        assert compat.is_watched()
    handle = nn.modules.module.register_module_forward_pre_hook(lambda *_: None)
    assert compat.is_watched()
    handle.remove()
    assert not compat.is_watched()


def test_transforms_are_noticed() -> None:
    x, seen = torch.ones(2), []

    def note(x: torch.Tensor) -> torch.Tensor:
        seen.append((compat.is_transformed(), compat.is_ordinary(x)))
        return x.sum()

    note(x)
    torch.func.grad(note)(x)
    torch.func.jvp(note, (x,), (x,))
    with torch.autograd.forward_ad.dual_level():
        note(x)
    torch.jit.trace(note, x, check_trace=False)
    assert seen == [(False, True), (True, False), (True, False), (True, True), (True, True)]


def test_hooks_of_every_kind_are_noticed() -> None:
    for register, hook in [
        ('register_forward_hook', lambda m, i, o: None),
        ('register_forward_pre_hook', lambda m, i: None),
        ('register_full_backward_hook', lambda m, i, o: None),
        ('register_full_backward_pre_hook', lambda m, o: None),
    ]:
        layer = nn.Linear(1, 1)
        assert not compat.has_hooks(layer)
        getattr(layer, register)(hook)
        assert compat.has_hooks(layer), f'torch keeps hooks of {register} elsewhere now'


def test_stand_ins_are_no_plain_weights() -> None:
    assert compat.is_dense(nn.Parameter(torch.ones(1)))
    assert not compat.is_dense(None)
    with torch._subclasses.fake_tensor.FakeTensorMode():
        assert not compat.is_dense(torch.ones(1))


def test_autocast_of_a_device_that_has_none() -> None:
    assert not compat.autocast_is_on(torch.device('meta'))
    with torch.autocast('cpu', torch.bfloat16):
        assert compat.autocast_is_on(torch.device('cpu'))


def test_without_data_nothing_is_computed() -> None:
    weight = torch.ones(3, 5)
    with compat.without_data():
        product = torch.ones(10**6, 10**6, 3) @ weight  # 12 TB
    assert product.shape == (10**6, 10**6, 5)
    assert not compat.is_dense(product)


def test_predictions_of_a_dense_head_keep_their_gradients_where_asked() -> None:
    """``predict_by_feat`` uses ``select_single_mlvl``, which is called with ``detach=True``."""
    from mmdet.models import RetinaHead, RTMDetInsHead

    for kind in (RetinaHead, RTMDetInsHead):
        scope = kind.predict_by_feat.__globals__
        select, maps = scope['select_single_mlvl'], [torch.ones(1, 2, requires_grad=True)]
        with compat.undetached(kind.__new__(kind)):
            assert scope['select_single_mlvl'](maps, 0, detach=True)[0].requires_grad
        assert scope['select_single_mlvl'] is select
        assert not select(maps, 0, detach=True)[0].requires_grad
    with compat.undetached(None):
        pass


def test_workers_that_a_loader_keeps_are_ended() -> None:
    """This uses ``DataLoader._iterator`` and its ``_shutdown_workers``."""
    loader = DataLoader(range(2), num_workers=1, persistent_workers=True)
    compat.end_workers(loader)
    next(iter(loader))
    workers = [process for process in psutil.Process().children() if process.is_running()]
    compat.end_workers(loader)
    assert len(workers) == 1
    assert not workers[0].is_running()


@pytest.mark.parametrize(('module', 'name'), SWALLOWING)
def test_where_errors_are_swallowed(module: str, name: str) -> None:
    loaded = importlib.import_module(module)
    assert re.search(rf'def {name}\(.*?except:', Path(loaded.__file__).read_text(), re.DOTALL)
