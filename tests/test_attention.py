"""The attention operators against slow and obvious attention over the whole map, and against each other."""

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from crossformer_mm.attention import attend, attend_plain, from_groups, to_groups
from crossformer_mm.crossformer import Attention

CASES = [  # H, W, G, I
    (6, 6, 3, 2),
    (7, 11, 3, 2),
    (5, 4, 2, 1),
    (13, 9, 3, 3),
    (9, 20, 4, 1),
    (2, 9, 3, 2),
    (1, 1, 7, 8),
    (8, 8, 1, 3),
]


def attention(group_size: int, interval: int) -> Attention:
    torch.manual_seed(0)
    module = Attention(32, 2, group_size, interval, adaptive=False, attn_drop_rate=0.0, drop_rate=0.0)
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return module


def obvious_attention(module: Attention, x: Tensor) -> Tensor:
    """Every token against every token, with what is not of its group masked away."""
    B, H, W, C = x.shape
    G, I = module.group_size, module.interval
    if min(H, W) <= G:
        G, I = max(H, W), 1
    row, column = torch.meshgrid(torch.arange(H), torch.arange(W), indexing='ij')
    position = torch.stack([row, column], dim=-1).view(-1, 2)
    group = torch.cat([position // (G * I), position % I], dim=1)
    together = (group[:, None] == group[None]).all(-1)
    offsets = (position[:, None] - position[None]) // I
    pos = module.pos
    bias = pos.pos3(pos.pos2(pos.pos1(pos.pos_proj(offsets.to(x.dtype))))).permute(2, 0, 1)
    q, k, v = module.qkv(x.view(B, H * W, C)).view(B, H * W, 3, module.num_heads, -1).permute(2, 0, 3, 1, 4)
    logits = q @ k.mT / q.shape[-1] ** 0.5 + bias
    weights = logits.masked_fill(~together, -torch.inf).softmax(-1)
    return module.proj((weights @ v).transpose(1, 2).reshape(B, H, W, C))


@pytest.mark.parametrize(('H', 'W', 'G', 'I'), CASES)
def test_attention_equals_masked_attention_over_the_whole_map(H, W, G, I):
    module = attention(G, I).double()
    x = torch.randn(2, H, W, 32, dtype=torch.double, requires_grad=True)
    grad = torch.randn(2, H, W, 32, dtype=torch.double)
    parameters = [x, *module.parameters()]
    out, expected = module(x), obvious_attention(module, x)
    torch.testing.assert_close(out, expected)
    ours = torch.autograd.grad(out, parameters, grad)
    theirs = torch.autograd.grad(expected, parameters, grad)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize(('dtype', 'tolerance'), [(torch.float32, 2e-5), (torch.bfloat16, 2e-2)])
@pytest.mark.parametrize(('H', 'W', 'G', 'I'), [(14, 14, 7, 2), (17, 30, 7, 2), (5, 9, 9, 1)])
def test_the_operator_equals_the_plain_operations(H, W, G, I, dtype, tolerance):
    torch.manual_seed(0)
    size = (2, H, W, G, I)
    qkv = torch.randn(2 * H * W, 96).to(dtype).requires_grad_()
    table = torch.randn(2 * min(H, G) - 1, 2 * min(W, G) - 1, 2, requires_grad=True)
    grad = torch.randn(2 * H * W, 32).to(dtype)
    out, expected = attend(qkv, table, *size), attend_plain(qkv, table, *size)
    torch.testing.assert_close(out, expected, rtol=0, atol=tolerance * expected.abs().max().item())
    ours = torch.autograd.grad(out, (qkv, table), grad)
    theirs = torch.autograd.grad(expected, (qkv, table), grad)
    for a, b in zip(ours, theirs, strict=True):
        assert a.dtype == b.dtype
        torch.testing.assert_close(a, b, rtol=0, atol=tolerance * b.abs().max().item())


@pytest.mark.parametrize(('H', 'W', 'G', 'I'), [(7, 11, 3, 2), (4, 4, 2, 1)])
def test_operators_keep_pytorchs_rules(H, W, G, I):
    size = (2, H, W, G, I)
    x = torch.randn(2 * H * W, 5, dtype=torch.double, requires_grad=True)
    qkv = torch.randn(2 * H * W, 12, dtype=torch.double, requires_grad=True)
    table = torch.randn(2 * G - 1, 2 * G - 1, 2, dtype=torch.double, requires_grad=True)
    for operator, tensors in [(to_groups, (x,)), (from_groups, (x,)), (attend, (qkv, table))]:
        results = torch.library.opcheck(operator, (*tensors, *size))
        assert set(results.values()) == {'SUCCESS'}
        assert torch.autograd.gradcheck(lambda *args, op=operator: op(*args, *size), tensors)


def test_regrouping_undoes_itself():
    x = torch.randn(3 * 10 * 13, 4)
    size = (3, 10, 13, 3, 2)
    assert torch.equal(from_groups(to_groups(x, *size), *size), x)
    assert not torch.equal(to_groups(x, *size), x)


def test_the_flop_counter_sees_attentions_products():
    qkv, table = torch.randn(7 * 9, 96, requires_grad=True), torch.randn(13, 13, 2)
    with FlopCounterMode(display=False) as counter:
        attend(qkv, table, 1, 7, 9, 7, 1).sum().backward()
    groups = 49**2 + 14**2  # a 7×7 group and a 7×2 one
    forward = 2 * 2 * 32 * groups
    assert counter.get_total_flops() == forward + forward * 5 // 2
