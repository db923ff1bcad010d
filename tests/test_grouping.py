"""The groups of a map: every token once, who is with whom, and no padding."""

import numpy as np
import pytest

from crossformer_mm.grouping import Run, axis_groups, find_groups, offset_index, split_runs

SIZES = [(1, 1), (1, 9), (5, 1), (7, 7), (8, 13), (23, 31), (56, 56), (57, 60), (3, 120)]


@pytest.mark.parametrize('length', [1, 2, 6, 7, 8, 13, 14, 27, 28, 29, 30, 56])
@pytest.mark.parametrize(('group_size', 'interval'), [(7, 1), (7, 2), (7, 4), (1, 1), (1, 3), (4, 9)])
def test_axis_groups_sample_every_interval_inside_a_macro_window(length, group_size, interval):
    groups = [group for same in axis_groups(length, group_size, interval) for group in same]
    assert sorted(np.concatenate(groups)) == list(range(length))
    for group in groups:
        assert len(group) <= group_size
        assert set(np.diff(group)) <= {interval}
        assert len(set(group // (group_size * interval))) == 1
    pairs = {(g[0] // (group_size * interval), g[0] % interval) for g in groups}
    assert len(pairs) == len(groups)  # a group is whole: no two share window and residue


@pytest.mark.parametrize('size', SIZES)
@pytest.mark.parametrize(('group_size', 'interval'), [(7, 1), (7, 4), (3, 2), (1, 1), (130, 1)])
def test_find_groups_is_a_permutation_with_few_shapes(size, group_size, interval):
    groups = find_groups(3, *size, group_size, interval)
    total = 3 * size[0] * size[1]
    assert sorted(groups.order) == list(range(total))
    assert (groups.order[groups.inverse] == np.arange(total)).all()
    assert sum(run.count * run.tokens for run in groups.runs) == total
    assert len(groups.runs) <= 9


def test_a_run_holds_rectangles_in_raster_order():
    groups = find_groups(2, 6, 5, 2, 2)  # macro-windows of 4×4
    start = 0
    for run in groups.runs:
        tokens = groups.order[start : start + run.count * run.tokens]
        image, token = np.divmod(tokens.reshape(run.count, run.rows, run.columns), 30)
        row, column = np.divmod(token, 5)
        assert (image == image[:, :1, :1]).all()
        assert (row == row[:, :, :1]).all() and (column == column[:, :1, :]).all()
        assert (np.diff(row, axis=1) == 2).all() and (np.diff(column, axis=2) == 2).all()
        start += tokens.size


@pytest.mark.parametrize('tokens', [1, 9, 10, 27, 100, 10**6])
@pytest.mark.parametrize('counts', [(), (0,), (1,), (20,), (7, 1, 30)])
def test_split_runs_keeps_groups_whole_and_in_order(tokens, counts):
    runs = [Run(count, 3, columns) for count, columns in zip(counts, (3, 2, 1), strict=False)]
    pieces = list(split_runs(runs, tokens))
    assert [r.shape for p in pieces for r in p for _ in range(r.count)] == [
        r.shape for r in runs for _ in range(r.count)
    ]
    for piece in pieces:
        assert 0 < sum(r.count * r.tokens for r in piece) <= max(tokens, piece[0].tokens)
    assert len(pieces) <= sum(-(-r.count // max(tokens // r.tokens, 1)) for r in runs)


@pytest.mark.parametrize(('rows', 'columns', 'table'), [(3, 2, (5, 3)), (2, 2, (5, 5)), (1, 4, (1, 7))])
def test_offset_index_finds_the_offset_of_each_pair(rows, columns, table):
    a, b = np.meshgrid(np.arange(table[0]), np.arange(table[1]), indexing='ij')
    offsets = np.stack([a - table[0] // 2, b - table[1] // 2], axis=-1).reshape(-1, 2)
    found = offsets[offset_index(rows, columns, *table)].reshape(rows, columns, rows, columns, 2)
    for r, s, r2, s2 in np.ndindex(rows, columns, rows, columns):
        assert tuple(found[r, s, r2, s2]) == (r - r2, s - s2)
