"""Attention within groups, compared with a slow and obvious implementation over the whole map."""

import pytest
import torch
from test_ops import RULES
from torch import Tensor

from crossformer_mm.models.attention import attend, pair_biases
from crossformer_mm.models.crossformer import Attention
from crossformer_mm.models.grouping import GroupRule, find_groups
from crossformer_mm.models.position import DynamicPositionBias

SIZES = [(6, 6), (7, 11), (5, 4), (13, 9), (9, 20), (2, 9), (1, 1), (8, 8), (16, 24)]


def attention(rule: GroupRule) -> Attention:
    torch.manual_seed(0)
    module = Attention(32, 2, rule, attn_drop_rate=0.0, drop_rate=0.0)
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return module


def obvious_groups(position: Tensor, H: int, W: int, rule: GroupRule) -> tuple[Tensor, int]:
    """A key of the group of each token, by row and column, and the step between tokens of a group.

    This follows the specification literally, and shares no code with the package.
    """
    G, I = rule.group_size, rule.interval if rule.long_distance else 1
    if min(H, W) <= G:
        if rule.layout == 'window':
            return torch.zeros_like(position), 1
        return position // min(H, W), 1
    if rule.long_distance and rule.layout == 'map':
        return position % I, I
    return torch.cat([position // (G * I), position % I], dim=1), I


def obvious_attention(module: Attention, x: Tensor) -> Tensor:
    """Attention over all tokens, with those of other groups masked."""
    B, H, W, C = x.shape
    row, column = torch.meshgrid(torch.arange(H), torch.arange(W), indexing='ij')
    position = torch.stack([row, column], dim=-1).view(-1, 2)
    group, step = obvious_groups(position, H, W, module.groups)
    together = (group[:, None] == group[None]).all(-1)
    offsets = (position[:, None] - position[None]) // step
    pos = module.pos
    bias = pos.pos3(pos.pos2(pos.pos1(pos.pos_proj(offsets.to(x.dtype))))).permute(2, 0, 1)
    q, k, v = module.qkv(x.view(B, H * W, C)).view(B, H * W, 3, 2, -1).permute(2, 0, 3, 1, 4)
    logits = q @ k.mT / q.shape[-1] ** 0.5 + bias
    weights = logits.masked_fill(~together, -torch.inf).softmax(-1)
    return module.proj((weights @ v).transpose(1, 2).reshape(B, H, W, C))


@pytest.mark.parametrize('rule', RULES, ids=lambda rule: f'{rule.layout}-{rule.group_size}-{rule.interval}')
@pytest.mark.parametrize(('H', 'W'), SIZES)
def test_attention_equals_masked_attention_over_the_whole_map(H: int, W: int, rule: GroupRule) -> None:
    module = attention(rule).double()
    x = torch.randn(2, H, W, 32, dtype=torch.double, requires_grad=True)
    grad = torch.randn(2, H, W, 32, dtype=torch.double)
    parameters = [x, *module.parameters()]
    out, expected = module(x), obvious_attention(module, x)
    torch.testing.assert_close(out, expected)
    ours = torch.autograd.grad(out, parameters, grad)
    theirs = torch.autograd.grad(expected, parameters, grad)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize(('R', 'S'), [(3, 4), (4, 3), (1, 5), (2, 2)])
def test_biases_of_pairs_are_those_of_their_offsets(R: int, S: int) -> None:
    table = DynamicPositionBias(32, 2)(4, 5)
    assert table.shape == (2, 7, 9)
    biases = pair_biases(table, R, S).view(2, R, S, R, S)
    for r in range(R):
        for s in range(S):
            for r2 in range(R):
                for s2 in range(S):
                    expected = table[:, 3 - (r - r2), 4 - (s - s2)]
                    assert torch.equal(biases[:, r, s, r2, s2], expected)


def test_dropout_of_weights_keeps_the_mean() -> None:
    torch.manual_seed(0)
    groups = find_groups(torch.empty(0), 1, 6, 6, None, 1)
    qkv, table = torch.randn(1, 36, 96), torch.zeros(1, 11, 11)
    kept = torch.stack([attend(qkv, table, groups.blocks, dropout=0.5) for _ in range(2000)])
    assert not torch.equal(kept[0], kept[1])
    torch.testing.assert_close(kept.mean(0), attend(qkv, table, groups.blocks), rtol=0, atol=0.05)
