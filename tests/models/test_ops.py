"""The CPU kernels: compared with the plain network, and when they replace it."""

import copy
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from conftest import plain_path
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune

from crossformer_mm.models import ops
from crossformer_mm.models.crossformer import Attention, Block, CrossScaleConvs
from crossformer_mm.models.grouping import GroupRule
from crossformer_mm.models.ops import attention, branches
from crossformer_mm.models.position import DynamicPositionBias

SIZES = [(1, 1, 1), (1, 9, 16), (2, 5, 40), (3, 15, 17)]
RULES = [
    GroupRule(4, 2, long_distance=False),
    GroupRule(4, 2, long_distance=True, layout='map'),
    GroupRule(7, 3, long_distance=True, layout='map'),
    GroupRule(4, 1, long_distance=True, layout='map'),
    GroupRule(4, 2, long_distance=True, layout='window'),
    GroupRule(7, 3, long_distance=True, layout='window'),
]


def block(
    rule: GroupRule = RULES[1], drop_path_rate: float = 0.0, cooled: bool = True, with_cp: bool = False
) -> Block:
    torch.manual_seed(0)
    attn = Attention(32, 2, rule, attn_drop_rate=0.0, drop_rate=0.0)
    module = Block(attn, cooled, drop_rate=0.0, drop_path_rate=drop_path_rate, with_cp=with_cp)
    for parameter in module.parameters():
        nn.init.normal_(parameter, mean=float(parameter.dim() == 1), std=0.2)
    return module.train()


def step(module: nn.Module, x: Tensor) -> list[Tensor]:
    """The output, and all gradients of a loss, with the same random numbers in each call."""
    torch.manual_seed(1)
    x = x.detach().requires_grad_()
    out = module(x)
    weights = torch.linspace(0.5, 1.5, out.numel(), dtype=x.dtype).view_as(out)
    inputs = [x, *module.parameters()]
    return [
        out,
        *torch.autograd.grad((out * weights).sum(), inputs, allow_unused=True, materialize_grads=True),
    ]


def plain_step(module: nn.Module, x: Tensor) -> list[Tensor]:
    with plain_path():
        return step(module, x)


def assert_near(ours: list[Tensor], theirs: list[Tensor], tolerance: float) -> None:
    scale = max(t.abs().max().item() for t in theirs[1:])
    for a, b in zip(ours, theirs, strict=True):
        assert a.dtype == b.dtype
        # of the largest gradient: a bias that shifts all logits alike has one of zero, but for rounding
        largest = max(b.abs().max().item(), 1e-2 * scale)
        torch.testing.assert_close(a, b, rtol=0, atol=tolerance * largest)


@pytest.mark.parametrize('chunk', [1, 50, 4096])
@pytest.mark.parametrize('size', SIZES)
@pytest.mark.parametrize('rule', RULES, ids=lambda rule: f'{rule.layout}-{rule.group_size}-{rule.interval}')
@pytest.mark.parametrize('with_cp', [False, True])
def test_kernels_change_no_number(with_cp, rule, size, chunk, monkeypatch):
    monkeypatch.setattr(branches, 'CHUNK', chunk)
    monkeypatch.setattr(attention, 'PAIRS', 10 * chunk)
    monkeypatch.setattr(attention, 'LARGE', chunk // 5)  # all groups, some or none
    module = block(rule, with_cp=with_cp).double()
    x = torch.randn(*size, 32, dtype=torch.double)
    assert_near(step(module, x), plain_step(module, x), 1e-12)


@pytest.mark.parametrize('chunk', [50, 4096])
@pytest.mark.parametrize('size', [(1, 1, 1), (2, 15, 17)])
@pytest.mark.parametrize('with_cp', [False, True])
def test_under_autocast(with_cp, size, chunk, monkeypatch):
    monkeypatch.setattr(branches, 'CHUNK', chunk)
    monkeypatch.setattr(attention, 'LARGE', chunk // 5)
    module, x = block(cooled=False, with_cp=with_cp), torch.randn(*size, 32)
    exact = step(module, x)
    with torch.autocast('cpu', torch.bfloat16):
        ours, theirs = step(module, x), plain_step(module, x)
    assert ours[0].dtype == theirs[0].dtype == torch.float32  # as layer by layer: the sum stays exact
    assert_near([t.float() for t in ours], [t.float() for t in exact], 5e-2)
    assert_near([t.float() for t in theirs], [t.float() for t in exact], 5e-2)


@pytest.mark.parametrize('with_cp', [False, True])
def test_weights_of_half_precision(with_cp):
    module, x = block(cooled=False, with_cp=with_cp), torch.randn(2, 9, 9, 32)
    exact = step(module, x)
    ours = step(module.bfloat16(), x.bfloat16())
    assert {t.dtype for t in ours} == {torch.bfloat16}
    assert_near([t.float() for t in ours], exact, 5e-2)


@pytest.mark.parametrize('with_cp', [False, True])
def test_the_gradients_are_those_of_differences(with_cp):
    module = block(cooled=False, with_cp=with_cp).double()
    x = torch.randn(1, 5, 6, 32, dtype=torch.double, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, *_: module(x), (x, *module.parameters()), fast_mode=True)


@pytest.mark.parametrize('save', [False, True])
@pytest.mark.parametrize('span', [4, None])
def test_operators_keep_pytorchs_rules(save, span):
    module, x = block(cooled=False), torch.randn(63, 32, requires_grad=True)
    table = module.attn.pos(9, 7).detach().requires_grad_()
    norm1, norm2, (qkv, proj), (fc1, fc2) = (
        [module.norm1.weight, module.norm1.bias],
        [module.norm2.weight, module.norm2.bias],
        (module.attn.qkv, module.attn.proj),
        (module.mlp.fc1, module.mlp.fc2),
    )
    options = (0.5, 1e-5, torch.float32, save)
    attention_weights = (*norm1, qkv.weight, qkv.bias, proj.weight, proj.bias)
    mlp_weights = (*norm2, fc1.weight, fc1.bias, fc2.weight, fc2.bias)
    for operator, arguments in [
        (branches.add_mlp, (x, *mlp_weights, *options)),
        (branches.add_attention, (x, table, *attention_weights, 1, 9, 7, span, 2, *options)),
    ]:
        assert set(torch.library.opcheck(operator, arguments).values()) == {'SUCCESS'}


@pytest.mark.parametrize('seed', range(4))
def test_dropped_images_change_no_number(seed, monkeypatch):
    module = block(drop_path_rate=0.5)
    x = torch.randn(seed + 1, 9, 7, 32)
    assert_near(step(module, x), plain_step(module, x), 1e-5)


def test_every_weight_has_a_gradient_when_all_images_are_dropped():
    module, x = block(drop_path_rate=1.0, cooled=False), torch.randn(2, 9, 7, 32)
    out, grad, *grads = step(module, x)
    assert torch.equal(out, x)
    assert torch.equal(grad.flatten(), torch.linspace(0.5, 1.5, x.numel()))
    assert all(g.shape == p.shape and not g.any() for g, p in zip(grads, module.parameters(), strict=True))


def test_new_weights_copies_and_threads_get_their_own_numbers(monkeypatch):
    module, x = block(drop_path_rate=0.0), torch.randn(2, 9, 7, 32)
    before = module(x)
    copied = copy.deepcopy(module)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.mul_(1.5)
    assert torch.equal(copied(x), before)
    assert_near(step(module, x), plain_step(module, x), 1e-5)
    inputs = [torch.randn(1, 5 + i, 9, 32) for i in range(8)]
    expected = [module(x) for x in inputs]
    with ThreadPoolExecutor(4) as pool:
        assert all(map(torch.equal, pool.map(module, inputs), expected))


def narrowed(module: Block) -> Block:
    """The block with one of its two attention heads, and half the width of the MLP."""
    module.attn.qkv, module.attn.proj = nn.Linear(32, 48), nn.Linear(16, 32)
    module.attn.pos = DynamicPositionBias(32, 1)
    module.mlp.fc1, module.mlp.fc2 = nn.Linear(32, 64), nn.Linear(64, 32)
    return module


@pytest.mark.parametrize('with_cp', [False, True])
def test_widths_are_those_of_the_weights(with_cp: bool) -> None:
    module, x = narrowed(block(with_cp=with_cp)), torch.randn(2, 9, 7, 32)
    assert ops.replaces_branches(module, x)
    assert_near(step(module, x), plain_step(module, x), 1e-5)
    compiled = torch.compile(module, backend='aot_eager', fullgraph=True)
    assert_near(step(compiled, x), step(module, x), 1e-5)


@pytest.mark.parametrize('shared', ['block', 'mlp', 'tied weights'])
def test_shared_weights_get_the_gradients_of_all_their_uses(shared: str) -> None:
    first, second = block().double(), block(RULES[0]).double()
    if shared == 'block':
        second = first
    elif shared == 'mlp':
        second.mlp = first.mlp
    else:
        first.mlp.fc2.bias = first.norm2.bias
    x = torch.randn(1, 9, 7, 32, dtype=torch.double)

    def gradients(create_graph: bool) -> tuple[Tensor, ...]:
        weights = (first.mlp.fc1.weight, first.norm2.bias)
        loss = second(first(x)).square().sum()
        grads = torch.autograd.grad(loss, weights, create_graph=create_graph)
        if not create_graph:
            return grads
        return *grads, *torch.autograd.grad(grads[0].square().sum(), weights)

    for create_graph in (False, True):
        ours = gradients(create_graph)
        with plain_path():
            theirs = gradients(create_graph)
        for a, b in zip(ours, theirs, strict=True):
            torch.testing.assert_close(a, b)


def test_gradients_of_a_batch_of_vectors() -> None:
    module, x = block(cooled=False), torch.randn(1, 5, 6, 32, requires_grad=True)
    vectors = torch.randn(3, 1, 5, 6, 32)
    (batched,) = torch.autograd.grad(module(x), x, vectors, is_grads_batched=True)
    for vector, ours in zip(vectors, batched, strict=True):
        torch.testing.assert_close(ours, torch.autograd.grad(module(x), x, vector)[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize('autocast', [torch.bfloat16, torch.float16])
def test_dtypes_under_autocast_are_those_of_the_layers(dtype: torch.dtype, autocast: torch.dtype) -> None:
    module, x = block(cooled=False).eval(), torch.randn(1, 5, 6, 32).to(dtype)
    if dtype is torch.float64:
        module.double()
    with torch.autocast('cpu', autocast), torch.no_grad():
        ours = module(x)
        with plain_path():
            plain = module(x)
    assert ours.dtype == plain.dtype
    tolerance = 1e-12 if dtype is torch.float64 else 0.05
    torch.testing.assert_close(ours, plain, rtol=0, atol=tolerance * plain.abs().max().item())


def test_autocast_of_another_thread_is_left_alone() -> None:
    module, x = block().eval(), torch.randn(1, 40, 40, 32)
    ready, stop = threading.Event(), threading.Event()

    def work() -> None:
        while not stop.is_set():
            module(x)
            ready.set()

    other = threading.Thread(target=work)
    other.start()
    ready.wait()
    with torch.autocast('cpu', torch.float16), torch.no_grad():
        for _ in range(20):
            module(x)
            assert torch.get_autocast_dtype('cpu') is torch.float16
    stop.set()
    other.join()


# When the kernels are used


class Scaled(nn.Module):
    """Wraps a layer, as adapters do."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return 1.5 * self.layer(x)


class Adapter(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + x.sum()


def adapt(block: Block) -> None:
    adapter = Adapter(32, 96)
    adapter.load_state_dict(block.attn.qkv.state_dict())
    block.attn.qkv = adapter


def active(dropout: nn.Dropout) -> None:
    dropout.p = 0.5
    dropout.train()


CHANGES: dict[str, Callable[[Block], Any]] = {
    'another activation': lambda b: setattr(b.mlp, 'act', nn.ReLU()),
    'approximate GELU': lambda b: setattr(b.mlp, 'act', nn.GELU('tanh')),
    'patched GELU': lambda b: setattr(b.mlp.act, 'forward', lambda x: x.relu()),
    'patched forward of the MLP': lambda b: setattr(b.mlp, 'forward', lambda x: 2 * x),
    'patched forward of the norm': lambda b: setattr(b.norm1, 'forward', lambda x: 2 * x),
    'wrapped MLP': lambda b: setattr(b, 'mlp', Scaled(b.mlp)),
    'identity for the MLP': lambda b: setattr(b, 'mlp', nn.Identity()),
    'wrapped attention': lambda b: setattr(b, 'attn', Scaled(b.attn)),
    'identity for attention': lambda b: setattr(b, 'attn', nn.Identity()),
    'identity for drop path': lambda b: setattr(b, 'drop_path', nn.Identity()),
    'adapter': adapt,
    'no bias': lambda b: setattr(b.mlp.fc1, 'bias', None),
    'no bias, as an attribute': lambda b: (delattr(b.mlp.fc1, 'bias'), setattr(b.mlp.fc1, 'bias', None)),
    'norm without weights': lambda b: setattr(b, 'norm1', nn.LayerNorm(32, elementwise_affine=False)),
    'RMS norm': lambda b: setattr(b, 'norm2', nn.RMSNorm(32)),
    'parametrised weight': lambda b: parametrizations.weight_norm(b.mlp.fc1, dim=None),
    'pruned weight': lambda b: prune.random_unstructured(b.mlp.fc2, 'weight', 0.5),
    'forward hook': lambda b: b.mlp.register_forward_hook(lambda m, i, out: 2 * out),
    'forward pre-hook': lambda b: b.attn.proj.register_forward_pre_hook(lambda m, i: (2 * i[0],)),
    'backward hook': lambda b: b.mlp.fc1.register_full_backward_hook(lambda m, i, o: (2 * i[0],)),
    'backward pre-hook': lambda b: b.attn.qkv.register_full_backward_pre_hook(lambda m, o: (2 * o[0],)),
    'dropout in the MLP': lambda b: active(b.mlp.drop),
    'dropout of weights': lambda b: active(b.attn.attn_drop),
    'dropout of the output': lambda b: active(b.attn.proj_drop),
}
KEPT: dict[str, Callable[[Block], Any]] = {
    'nothing': lambda b: None,
    "another norm's eps": lambda b: setattr(b.norm1, 'eps', 0.5),
    'a weight that is no parameter': lambda b: (
        delattr(b.norm1, 'weight'),
        setattr(b.norm1, 'weight', torch.full((32,), 3.0)),
    ),
    'new weights': lambda b: nn.init.normal_(b.mlp.fc1.weight),
    'hook of the position bias': lambda b: b.attn.pos.register_forward_hook(lambda m, i, out: 3 * out),
    'another grouping': lambda b: setattr(b.attn, 'groups', RULES[4]),
    'evaluation mode': lambda b: b.eval(),
}


@pytest.mark.parametrize('change', CHANGES | KEPT)
def test_changed_blocks_compute_what_is_written(change: str) -> None:
    module, x = block(cooled=False), torch.randn(2, 9, 7, 32)
    before = step(module, x)
    (CHANGES | KEPT)[change](module)
    assert ops.replaces_branches(module, x) is (change in KEPT)
    ours, plain = step(module, x), plain_step(module, x)
    assert_near(ours, plain, 1e-4)
    if change not in ('nothing', 'evaluation mode', 'identity for drop path'):
        assert any(not torch.allclose(a, b, rtol=1e-3) for a, b in zip(ours, before, strict=False))


def test_inputs_that_kernels_do_not_know_take_the_plain_path() -> None:
    module, x = block(), torch.randn(1, 5, 6, 32)
    assert ops.replaces_branches(module, x)
    assert not ops.replaces_branches(module.to('meta'), x.to('meta'))
    module = block()
    with torch.device('cpu'):
        assert not ops.replaces_branches(module, x)
    with pytest.raises(RuntimeError, match='dtype'):
        module(x.double())


CONVS: dict[str, Callable[[CrossScaleConvs], Any]] = {
    'nothing': lambda c: None,
    'hook': lambda c: c[1].register_forward_hook(lambda m, i, out: 2 * out),
    'dilation': lambda c: setattr(c, '0', nn.Conv2d(3, 32, 2, 4, dilation=3)),
    'circular padding': lambda c: setattr(c[1], 'padding_mode', 'circular'),
    'no bias': lambda c: setattr(c[2], 'bias', None),
    'wrapped': lambda c: c.__setitem__(3, Scaled(c[3])),
    'one more': lambda c: c.append(nn.Conv2d(3, 8, 6, 4, padding=1)),
    'one less': lambda c: c.__delitem__(3),
}


@pytest.mark.parametrize('change', CONVS)
@pytest.mark.parametrize('size', [(1, 1), (4, 4), (5, 2), (37, 64), (3, 130)])
def test_the_first_embedding_is_that_of_plain_convolutions(size: tuple, change: str) -> None:
    torch.manual_seed(0)
    size = (37, 64) if change == 'circular padding' else size  # which wraps around once at most
    convs, images = CrossScaleConvs(3, 64, (4, 8, 16, 32), 4), torch.randn(2, 3, *size)
    CONVS[change](convs)
    assert ops.replaces_convs(convs, images) is (change in ('nothing', 'one less'))

    def output_and_gradients() -> tuple[Tensor, ...]:
        out = convs(images)
        return out, *torch.autograd.grad(out.square().sum(), list(convs.parameters()))

    ours = output_and_gradients()
    with plain_path():
        plain = output_and_gradients()
    for a, b in zip(ours, plain, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4 * b.abs().max().item())
