"""Blocks in chunks of tokens against the same blocks layer by layer."""

import copy
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from crossformer_mm import chunked
from crossformer_mm.crossformer import Attention, Block, StemConvs

SIZES = [(1, 1, 1), (1, 9, 16), (2, 5, 40), (3, 15, 17), (2, 14, 14)]
TOLERANCES = [(torch.double, 1e-12), (torch.float, 1e-5)]


def block(
    group_size: int = 4,
    interval: int = 2,
    drop_path_rate: float = 0.0,
    cooled: bool = True,
    with_cp: bool = False,
) -> Block:
    torch.manual_seed(0)
    attn = Attention(32, 2, group_size, interval, adaptive=False, attn_drop_rate=0.0, drop_rate=0.0)
    module = Block(attn, cooled, drop_rate=0.0, drop_path_rate=drop_path_rate, with_cp=with_cp)
    for parameter in module.parameters():
        nn.init.normal_(parameter, mean=float(parameter.dim() == 1), std=0.2)
    return module.train()


def step(module: nn.Module, x: Tensor) -> list[Tensor]:
    """The output, and all gradients of a loss; random numbers are drawn alike at each call."""
    torch.manual_seed(1)
    x = x.detach().requires_grad_()
    out = module(x)
    weights = torch.linspace(0.5, 1.5, out.numel(), dtype=x.dtype).view_as(out)
    return [out, *torch.autograd.grad((out * weights).sum(), [x, *module.parameters()])]


def layer_by_layer(module: nn.Module, x: Tensor, monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    with monkeypatch.context() as patch:
        patch.setattr('crossformer_mm.crossformer.suits_chunks', lambda *_: False)
        return step(module, x)


def assert_near(ours: list[Tensor], theirs: list[Tensor], tolerance: float) -> None:
    scale = max(t.abs().max().item() for t in theirs[1:])
    for a, b in zip(ours, theirs, strict=True):
        assert a.dtype == b.dtype
        # of the largest gradient: a bias that shifts all logits alike has one of zero, but for rounding
        largest = max(b.abs().max().item(), 1e-2 * scale)
        torch.testing.assert_close(a, b, rtol=0, atol=tolerance * largest)


@pytest.mark.parametrize(('dtype', 'tolerance'), TOLERANCES)
@pytest.mark.parametrize('chunk', [1, 50, 4096])
@pytest.mark.parametrize('size', SIZES)
@pytest.mark.parametrize('groups', [(4, 2), (4, 1), (7, 3)])
@pytest.mark.parametrize('with_cp', [False, True])
def test_chunks_change_no_number(with_cp, groups, size, chunk, dtype, tolerance, monkeypatch):
    monkeypatch.setattr(chunked, 'CHUNK', chunk)
    module = block(*groups, with_cp=with_cp).to(dtype)
    x = torch.randn(*size, 32, dtype=dtype)
    assert_near(step(module, x), layer_by_layer(module, x, monkeypatch), tolerance)


@pytest.mark.parametrize('chunk', [50, 4096])
@pytest.mark.parametrize('size', [(1, 1, 1), (2, 15, 17)])
@pytest.mark.parametrize('with_cp', [False, True])
def test_under_autocast(with_cp, size, chunk, monkeypatch):
    monkeypatch.setattr(chunked, 'CHUNK', chunk)
    module, x = block(cooled=False, with_cp=with_cp), torch.randn(*size, 32)
    exact = step(module, x)
    with torch.autocast('cpu', torch.bfloat16):
        ours, theirs = step(module, x), layer_by_layer(module, x, monkeypatch)
    assert ours[0].dtype == torch.bfloat16
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


def test_the_flop_counter_sees_what_the_layers_would_show(monkeypatch):
    counts = []
    module, x = block(cooled=False), torch.randn(2, 9, 7, 32)
    for patched in (False, True):
        if patched:
            monkeypatch.setattr('crossformer_mm.crossformer.suits_chunks', lambda *_: False)
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            module(x)
        counts.append(counter.get_total_flops())
    assert counts[0] == counts[1] > 0


@pytest.mark.parametrize('keep', [False, True])
def test_operators_keep_pytorchs_rules(keep):
    module, x = block(cooled=False), torch.randn(63, 32, requires_grad=True)
    tables = (module.attn.biases(9, 7).detach().requires_grad_(),)
    attention = chunked.weights_of(module.norm1, module.attn.qkv, module.attn.proj)
    mlp = chunked.weights_of(module.norm2, module.mlp.fc1, module.mlp.fc2)
    for operator, arguments in [
        (chunked.add_mlp, (x, 0.5, keep, *mlp)),
        (chunked.add_attention, (x, 0.5, keep, *tables, *attention, 1, 9, 7, 4, 2)),
    ]:
        assert set(torch.library.opcheck(operator, arguments).values()) == {'SUCCESS'}


@pytest.mark.parametrize('seed', range(4))
def test_dropped_images_change_no_number(seed, monkeypatch):
    module = block(drop_path_rate=0.5)
    x = torch.randn(seed + 1, 9, 7, 32)
    assert_near(step(module, x), layer_by_layer(module, x, monkeypatch), 1e-5)


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
    assert_near(step(module, x), layer_by_layer(module, x, monkeypatch), 1e-5)
    inputs = [torch.randn(1, 5 + i, 9, 32) for i in range(8)]
    expected = [module(x) for x in inputs]
    with ThreadPoolExecutor(4) as pool:
        assert all(map(torch.equal, pool.map(module, inputs), expected))


def test_layers_that_were_replaced_or_are_listened_to_are_called():
    x = torch.randn(1, 5, 6, 32)
    module = block()
    expected, calls = module(x), []
    handle = module.mlp.register_forward_hook(lambda *_: calls.append(1))
    torch.testing.assert_close(module(x), expected)
    handle.remove()
    assert calls == [1]

    class Adapter(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            calls.append(2)
            return super().forward(x)

    adapter = Adapter(32, 96)
    adapter.load_state_dict(module.attn.qkv.state_dict())
    module.attn.qkv = adapter
    torch.testing.assert_close(module(x), expected)
    assert calls == [1, 2]


def test_gradients_of_gradients_are_refused():
    module, x = block(), torch.randn(1, 5, 6, 32, requires_grad=True)
    grad = torch.autograd.grad(module(x).square().sum(), x, create_graph=True)[0]
    with pytest.raises(RuntimeError, match='add_'):
        grad.sum().backward()


@pytest.mark.parametrize('size', [(1, 1), (4, 4), (5, 2), (37, 64), (3, 130)])
def test_the_stem_is_that_of_plain_convolutions(size, monkeypatch):
    torch.manual_seed(0)
    stem, images = StemConvs(3, 64, (4, 8, 16, 32), 4), torch.randn(2, 3, *size)

    def output_and_gradients():
        out = stem(images)
        return out, torch.autograd.grad(out.square().sum(), list(stem.parameters()))

    out, grads = output_and_gradients()
    monkeypatch.setattr('crossformer_mm.crossformer.suits_chunks', lambda *_: False)
    plain, theirs = output_and_gradients()
    torch.testing.assert_close(out, plain)
    for a, b in zip(grads, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4 * b.abs().max().item())
