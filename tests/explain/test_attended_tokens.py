"""The tokens that a position attends to, and their weights."""

import numpy as np
import pytest
import torch
from conftest import narrow_network
from torch import Tensor

from crossformer_mm.explain.attention import attended, watched_attention
from crossformer_mm.models.crossformer import Attention

SIZES = [(70, 52), (224, 224), (300, 470), (20, 333)]


def inputs_of(backbone: torch.nn.Module, image: Tensor) -> dict[Attention, tuple[Tensor, Tensor]]:
    """The input and the output of each attention in a forward."""
    seen, handles = {}, []
    for layer in backbone.layers:
        for block in layer.blocks:
            keep = lambda attn, inputs, output: seen.update({attn: (inputs[0], output)})  # noqa: E731
            handles.append(block.attn.register_forward_hook(keep))
    backbone(image)
    for handle in handles:
        handle.remove()
    return seen


@torch.no_grad()
@pytest.mark.parametrize('layout', ['map', 'window', 'none'])
@pytest.mark.parametrize('size', SIZES)
def test_weights_and_values_make_the_output_of_the_block(layout: str, size: tuple[int, int]) -> None:
    backbone = narrow_network(long_distance=layout, position='ape' if size[0] == 20 else 'dpb').eval()
    torch.manual_seed(2)
    for attn, (x, output) in inputs_of(backbone, torch.randn(1, 3, *size)).items():
        _, H, W, C = x.shape
        for row, column in {(0, 0), (H - 1, W - 1), (H // 2, W // 3)}:
            block, tokens, weights = attended(attn, x, row, column)
            assert weights.shape == (attn.num_heads, block.tokens) == (attn.num_heads, len(tokens))
            torch.testing.assert_close(weights.sum(1), torch.ones(attn.num_heads))
            values = attn.qkv(x.view(-1, C)[tokens])[:, 2 * C :].view(-1, attn.num_heads, C // attn.num_heads)
            mixed = torch.einsum('hn,nhd->hd', weights, values).flatten()
            torch.testing.assert_close(attn.proj(mixed), output[0, row, column], rtol=1e-4, atol=1e-5)


def group_by_definition(attn: Attention, H: int, W: int, row: int, column: int) -> set[tuple[int, int]]:
    """The group of a token, token by token, as the papers and their code define it."""
    rule, side = attn.groups, min(H, W)
    G, I, short = rule.group_size, rule.interval, not rule.long_distance
    if side <= G:  # one group in layout 'window', else windows of the shorter side
        span, I = (max(H, W) if rule.layout == 'window' else side), 1
    elif short:
        span, I = G, 1
    else:
        span = max(H, W) if rule.layout == 'map' else G * I
    return {
        (r, c)
        for r in range(H)
        for c in range(W)
        if r // span == row // span
        and c // span == column // span
        and r % I == row % I
        and c % I == column % I
    }


@torch.no_grad()
@pytest.mark.parametrize('layout', ['map', 'window'])
@pytest.mark.parametrize('size', SIZES)
def test_tokens_are_those_of_the_definition(layout: str, size: tuple[int, int]) -> None:
    backbone = narrow_network(long_distance=layout).eval()
    torch.manual_seed(3)
    y, x = size[0] - 1.5, size[1] // 2 + 0.5
    with watched_attention(backbone, x, y) as found:
        backbone(torch.randn(1, 3, *size))
    blocks = [(one.stage, one.block) for one in found]
    assert blocks == [(1, 1), (1, 2), (2, 1), (2, 2), (3, 3), (3, 4), (4, 1), (4, 2)]
    for one in found:
        attn = backbone.layers[one.stage - 1].blocks[one.block - 1].attn
        row, column = int(y // one.stride), int(x // one.stride)
        tokens = list(map(tuple, one.tokens.tolist()))
        assert len(tokens) == one.group[0] * one.group[1] == one.weights.shape[1]
        assert set(tokens) == group_by_definition(attn, *one.size, row, column)
        assert (row, column) in tokens
        assert set(np.diff(sorted({column for _, column in tokens}))) <= {one.interval}
        assert one.long_distance == (not one.block % 2)


def test_the_network_computes_the_same_while_it_is_watched() -> None:
    backbone = narrow_network().eval()
    image = torch.rand(1, 3, 96, 80)
    with torch.no_grad():
        plain = backbone(image)
        with watched_attention(backbone, 3, 4):
            watched = backbone(image)
        again = backbone(image)
    for one, other, third in zip(plain, watched, again, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(one, third, rtol=0, atol=0)
