"""The groups of a map: every token once, who is with whom, and no padding."""

import numpy as np
import pytest
import torch

from crossformer_mm.models.grouping import (
    GroupBlock,
    GroupRule,
    axis_groups,
    find_groups,
    reorder,
    split_blocks,
)

SIZES = [(1, 1), (1, 9), (5, 1), (7, 7), (8, 13), (23, 31), (56, 56), (57, 60), (3, 120)]
SPANS = [(7, 1), (28, 4), (6, 2), (1, 1), (None, 1), (None, 4), (None, 3)]


def layout(*size: int | None) -> tuple[np.ndarray, np.ndarray, tuple[GroupBlock, ...]]:
    groups = find_groups(torch.empty(0), *size)
    return groups.order.numpy(), groups.inverse.numpy(), groups.blocks


@pytest.mark.parametrize('length', [1, 2, 6, 7, 8, 13, 14, 27, 28, 29, 30, 56])
@pytest.mark.parametrize(('span', 'interval'), SPANS)
def test_axis_groups_sample_every_interval_inside_a_window(length, span, interval):
    groups = [group.numpy() for same in axis_groups(length, span, interval) for group in same]
    window = span or length
    assert sorted(np.concatenate(groups)) == list(range(length))
    for group in groups:
        assert len(group) <= -(-window // interval)
        assert set(np.diff(group)) <= {interval}
        assert len(set(group // window)) == 1
    pairs = {(g[0] // window, g[0] % window % interval) for g in groups}
    assert len(pairs) == len(groups)  # a group is whole: no two share window and residue


@pytest.mark.parametrize('size', SIZES)
@pytest.mark.parametrize(('span', 'interval'), SPANS)
def test_find_groups_is_a_permutation_with_few_shapes(size, span, interval):
    order, inverse, blocks = layout(3, *size, span, interval)
    total = 3 * size[0] * size[1]
    assert sorted(order) == list(range(total))
    assert (order[inverse] == np.arange(total)).all()
    assert sum(block.count * block.tokens for block in blocks) == total
    assert len(blocks) <= 9


@pytest.mark.parametrize('span', [4, None])
def test_a_block_holds_rectangles_in_raster_order(span):
    order, _, blocks = layout(2, 6, 5, span, 2)
    start = 0
    for block in blocks:
        tokens = order[start : start + block.count * block.tokens]
        image, token = np.divmod(tokens.reshape(block.count, block.rows, block.columns), 30)
        row, column = np.divmod(token, 5)
        assert (image == image[:, :1, :1]).all()
        assert (row == row[:, :, :1]).all() and (column == column[:, :1, :]).all()
        assert (np.diff(row, axis=1) == 2).all() and (np.diff(column, axis=2) == 2).all()
        start += tokens.size


@pytest.mark.parametrize(
    ('rule', 'size', 'expected'),
    [
        (GroupRule(7, 8, False), (200, 304), (7, 1, 7, 7)),
        (GroupRule(7, 8, True), (200, 304), (None, 8, 25, 38)),
        (GroupRule(7, 1, True), (25, 38), (None, 1, 25, 38)),
        (GroupRule(7, 8, True, 'window'), (200, 304), (56, 8, 7, 7)),
        (GroupRule(7, 8, True, 'window', adaptive=True), (200, 304), (7 * 44, 44, 7, 7)),
        # small maps: windows of the shorter side in layout map, one group in layout window
        (GroupRule(7, 4, True), (5, 20), (5, 1, 5, 5)),
        (GroupRule(7, 4, False), (5, 20), (5, 1, 5, 5)),
        (GroupRule(7, 4, True, 'window'), (5, 20), (None, 1, 5, 20)),
        (GroupRule(7, 4, False, 'window'), (20, 7), (None, 1, 20, 7)),
    ],
)
def test_rules_of_both_layouts(rule, size, expected):
    grouping = rule(*size)
    assert tuple(grouping) == expected
    for block in find_groups(torch.empty(0), 1, *size, grouping.span, grouping.interval).blocks:
        assert block.rows <= grouping.rows and block.columns <= grouping.columns


def test_maps_of_multiples_of_32_need_one_call_in_layout_map():
    for s, interval in enumerate((8, 4, 2, 1)):
        H, W = 800 // 2 ** (s + 2), 1344 // 2 ** (s + 2)
        grouping = GroupRule(7, interval, True)(H, W)
        assert len(find_groups(torch.empty(0), 2, H, W, grouping.span, grouping.interval).blocks) == 1


def test_reordering_is_a_permutation_with_and_without_gradient():
    groups = find_groups(torch.empty(0), 3, 10, 13, 6, 2)
    x = torch.randn(3 * 10 * 13, 4)
    grouped = reorder(x, groups.order, groups.inverse)
    assert torch.equal(grouped, x[groups.order]) and not torch.equal(grouped, x)
    assert torch.equal(reorder(grouped, groups.inverse, groups.order), x)
    leaf = x.clone().requires_grad_()
    out = reorder(leaf, groups.order, groups.inverse)
    assert torch.equal(out, grouped)
    weights = torch.randn_like(x)
    (out * weights).sum().backward()
    assert torch.equal(leaf.grad, weights[groups.inverse])


def test_layouts_are_kept_for_a_size_and_not_for_transforms():
    size = (1, 10, 13, 6, 2)
    assert find_groups(torch.empty(0), *size) is find_groups(torch.empty(3), *size)
    assert find_groups(torch.empty(0, device='meta'), *size).order.device.type == 'meta'
    kept = []
    torch.func.vmap(lambda x: kept.append(find_groups(x, 1, 10, 17, 6, 2)) or x)(torch.empty(2, 3))
    assert find_groups(torch.empty(0), 1, 10, 17, 6, 2) is not kept[0]


@pytest.mark.parametrize('tokens', [1, 9, 10, 27, 100, 10**6])
@pytest.mark.parametrize('counts', [(), (0,), (1,), (20,), (7, 1, 30)])
def test_split_blocks_keeps_groups_whole_and_in_order(tokens, counts):
    blocks = [GroupBlock(count, 3, columns) for count, columns in zip(counts, (3, 2, 1), strict=False)]
    pieces = list(split_blocks(blocks, tokens))
    assert [b[1:] for p in pieces for b in p for _ in range(b.count)] == [
        b[1:] for b in blocks for _ in range(b.count)
    ]
    for piece in pieces:
        assert 0 < sum(b.count * b.tokens for b in piece) <= max(tokens, piece[0].tokens)
    assert len(pieces) <= sum(-(-b.count // max(tokens // b.tokens, 1)) for b in blocks)
