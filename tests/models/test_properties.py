"""The grouping and the backbone for random sizes, settings, dtypes and batches."""

import itertools
from collections.abc import Iterator
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from conftest import plain_path
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from crossformer_mm import CrossFormer
from crossformer_mm.models.grouping import GroupBlock, axis_groups, find_groups, split_blocks
from crossformer_mm.models.ops import attention, branches

SIDES = st.integers(1, 90)
SIZES = st.one_of(
    st.tuples(SIDES, SIDES), st.tuples(SIDES, st.integers(1, 4)), st.tuples(st.integers(1, 4), SIDES)
)
GROUP_SIZES, INTERVALS = st.integers(1, 15), st.integers(1, 9)
PER_STAGE = st.tuples(*[GROUP_SIZES] * 4), st.tuples(*[INTERVALS] * 4)


def drawn(examples: int) -> settings:
    """A given number of examples, the same in every run; they may share a fixture."""
    health = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
    return settings(max_examples=examples, derandomize=True, deadline=None, suppress_health_check=health)


# Grouping


@drawn(200)
@given(st.integers(1, 300), GROUP_SIZES, INTERVALS, st.booleans())
def test_every_position_is_in_one_group_of_even_steps(
    length: int, group_size: int, interval: int, whole: bool
) -> None:
    by_length = list(axis_groups(length, None if whole else group_size * interval, interval))
    groups = [group.numpy() for same in by_length for group in same]
    assert sorted(np.concatenate(groups)) == list(range(length))
    largest = -(-length // interval) if whole else group_size
    assert {len(group) for group in groups} <= set(range(1, largest + 1))
    assert len(by_length) <= 3
    assert all(set(np.diff(group)) <= {interval} for group in groups)


@drawn(100)
@given(st.integers(1, 3), SIZES, GROUP_SIZES, INTERVALS, st.booleans())
def test_groups_lay_each_token_out_once(
    batch: int, size: tuple, group_size: int, interval: int, whole: bool
) -> None:
    window = max(size) if whole else group_size * interval
    groups = find_groups(torch.empty(0), batch, *size, None if whole else window, interval)
    order, tokens = groups.order.numpy(), batch * size[0] * size[1]
    assert np.array_equal(np.sort(order), np.arange(tokens))
    assert np.array_equal(order[groups.inverse.numpy()], np.arange(tokens))
    assert sum(block.count * block.tokens for block in groups.blocks) == tokens
    assert len(groups.blocks) <= 9
    for group in groups_of(order, groups.blocks):
        image, token = np.divmod(group, size[0] * size[1])
        row, column = np.divmod(token, size[1])
        for same in (image, row // window, row % window % interval, column // window):
            assert len(set(same)) == 1
        assert len(set(column % window % interval)) == 1


def groups_of(order: np.ndarray, blocks: tuple[GroupBlock, ...]) -> Iterator[np.ndarray]:
    """The tokens of each group."""
    lengths = [block.tokens for block in blocks for _ in range(block.count)]
    return iter(np.split(order, np.cumsum(lengths)[:-1])) if lengths else iter(())


BLOCKS = st.lists(st.builds(GroupBlock, st.integers(0, 40), st.integers(1, 9), st.integers(1, 9)), max_size=9)


@drawn(300)
@given(BLOCKS, st.integers(1, 400))
def test_pieces_are_full_and_hold_the_groups_in_order(blocks: list[GroupBlock], tokens: int) -> None:
    pieces = list(split_blocks(blocks, tokens))
    shapes = [[block[1:] for block in piece for _ in range(block.count)] for piece in pieces]
    assert [*itertools.chain(*shapes)] == [block[1:] for block in blocks for _ in range(block.count)]
    sizes = [[rows * columns for rows, columns in piece] for piece in shapes]
    assert all(sum(piece) <= tokens or len(piece) == 1 for piece in sizes)
    # nothing that had room in a piece is left for the next
    assert all(sum(piece) + following[0] > tokens for piece, following in itertools.pairwise(sizes))


# The backbone


LAYOUTS = st.sampled_from(['map', 'window', 'adaptive'])


def network(groups: tuple, intervals: tuple, layout: str, **more: object) -> CrossFormer:
    """Two blocks per stage, so that each stage has long distance attention, and an ACL in the third."""
    torch.manual_seed(0)
    arch = {'embed_dims': 16, 'depths': (2, 2, 4, 2), 'num_heads': (1, 2, 2, 4), 'acl': True}
    adaptive = layout == 'adaptive'
    more.update(long_distance='window' if adaptive else layout, adaptive_intervals=adaptive)
    return CrossFormer(arch, groups, intervals, **more)


def step(model: CrossFormer, images: Tensor) -> list[Tensor]:
    """The outputs, and their gradients with respect to the images and the weights."""
    torch.manual_seed(1)  # of the branches that are dropped
    images = images.clone().requires_grad_()
    outputs = model(images)
    loss = sum(output.square().mean() for output in outputs)
    return [*outputs, *torch.autograd.grad(loss, [images, *model.parameters()])]


def assert_near(ours: list[Tensor], theirs: list[Tensor], tolerance: float, outputs: int = 4) -> None:
    """Compare relative to each tensor's largest value, for gradients at least 1 % of the largest of all."""
    scale = max(t.abs().max().item() for t in theirs[outputs:])
    for i, (a, b) in enumerate(zip(ours, theirs, strict=True)):
        assert a.dtype == b.dtype and a.isfinite().all()
        largest = max(b.abs().max().item(), 0 if i < outputs else 1e-2 * scale)
        torch.testing.assert_close(a, b, rtol=0, atol=tolerance * largest)


@pytest.mark.parametrize(('dtype', 'tolerance'), [(torch.double, 1e-10), (torch.float, 2e-4)])
@drawn(12)
@given(
    batch=st.integers(1, 3),
    size=SIZES,
    groups=PER_STAGE[0],
    intervals=PER_STAGE[1],
    layout=LAYOUTS,
    train=st.booleans(),
    chunk=st.sampled_from([1, 7, 60, 4096]),
)
@example(1, (1, 1), (1,) * 4, (1,) * 4, 'adaptive', True, 1)
@example(2, (90, 89), (7,) * 4, (8, 4, 2, 1), 'window', True, 60)
@example(2, (90, 89), (7,) * 4, (8, 4, 2, 1), 'map', True, 60)
def test_kernels_change_no_number(
    monkeypatch: pytest.MonkeyPatch,
    dtype: torch.dtype,
    tolerance: float,
    batch: int,
    size: tuple[int, int],
    groups: tuple,
    intervals: tuple,
    layout: str,
    train: bool,
    chunk: int,
) -> None:
    model = network(groups, intervals, layout, drop_path_rate=0.5).to(dtype).train(train)
    images = torch.randn(batch, 3, *size, dtype=dtype)
    with monkeypatch.context() as patch:
        patch.setattr(branches, 'CHUNK', chunk)
        patch.setattr(attention, 'LARGE', chunk // 2)
        ours = step(model, images)
    with plain_path():
        theirs = step(model, images)
    strides = (4, 8, 16, 32)
    assert [t.shape[2:] for t in ours[:4]] == [tuple(-(-side // s) for side in size) for s in strides]
    assert_near(ours, theirs, tolerance)


@drawn(12)
@given(
    size=SIZES,
    groups=PER_STAGE[0],
    intervals=PER_STAGE[1],
    layout=LAYOUTS,
    train=st.booleans(),
    kernels=st.booleans(),
)
@example((71, 1), (7,) * 4, (8, 4, 2, 1), 'map', True, True)  # oneDNN leaves a single column unwritten
def test_bfloat16_is_finite_and_near(
    monkeypatch: pytest.MonkeyPatch,
    size: tuple[int, int],
    groups: tuple,
    intervals: tuple,
    layout: str,
    train: bool,
    kernels: bool,
) -> None:
    model = network(groups, intervals, layout).train(train)
    torch.manual_seed(2)
    images = torch.randn(2, 3, *size)
    with nullcontext() if kernels else plain_path():
        exact = step(model, images)
        with torch.autocast('cpu', torch.bfloat16):
            ours = step(model, images)
    assert all(tensor.isfinite().all() for tensor in ours)
    for a, b in zip(ours[:4], exact[:4], strict=True):
        torch.testing.assert_close(a.float(), b, rtol=0, atol=0.05 * b.abs().max().item())


@drawn(15)
@given(
    size=SIZES,
    groups=PER_STAGE[0],
    intervals=PER_STAGE[1],
    layout=LAYOUTS,
    train=st.booleans(),
    kernels=st.booleans(),
)
def test_images_of_a_batch_do_not_mix(
    monkeypatch: pytest.MonkeyPatch,
    size: tuple[int, int],
    groups: tuple,
    intervals: tuple,
    layout: str,
    train: bool,
    kernels: bool,
) -> None:
    model = network(groups, intervals, layout, drop_path_rate=0.0).train(train)
    images = torch.randn(3, 3, *size)
    images[1] = float('nan')  # what reaches another image shows
    with monkeypatch.context() as patch, torch.no_grad(), nullcontext() if kernels else plain_path():
        patch.setattr(branches, 'CHUNK', 50)
        together, alone = model(images), model(images[2:])
    for maps, own in zip(together, alone, strict=True):
        assert maps[1].isnan().any()
        assert maps[[0, 2]].isfinite().all()
        torch.testing.assert_close(maps[2:], own, rtol=0, atol=1e-5 * own.abs().max().item())


def test_a_batch_of_no_images_is_refused() -> None:
    with pytest.raises(ValueError, match=r'\(0, 3, 70, 90\): expected .* at least one image'):
        network((7,) * 4, (8, 4, 2, 1), 'map')(torch.zeros(0, 3, 70, 90))
