"""The groups of a map: every token is in exactly one group, the right tokens are together, no padding."""

import pytest
import torch

from crossformer_mm.models.grouping import (
    GroupRule,
    find_groups,
    reorder,
)


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
    x = torch.randn(2, 3 * 10 * 13, 4)
    grouped = reorder(x, groups.order, groups.inverse)
    assert torch.equal(grouped, x[:, groups.order]) and not torch.equal(grouped, x)
    assert torch.equal(reorder(grouped, groups.inverse, groups.order), x)
    leaf = x.clone().requires_grad_()
    out = reorder(leaf, groups.order, groups.inverse)
    assert torch.equal(out, grouped)
    weights = torch.randn_like(x)
    (out * weights).sum().backward()
    assert torch.equal(leaf.grad, weights[:, groups.inverse])


def test_layouts_are_kept_for_a_size_and_not_for_transforms():
    size = (1, 10, 13, 6, 2)
    assert find_groups(torch.empty(0), *size) is find_groups(torch.empty(3), *size)
    assert find_groups(torch.empty(0, device='meta'), *size).order.device.type == 'meta'
    kept = []
    torch.func.vmap(lambda x: kept.append(find_groups(x, 1, 10, 17, 6, 2)) or x)(torch.empty(2, 3))
    assert find_groups(torch.empty(0), 1, 10, 17, 6, 2) is not kept[0]
