"""What a block launches on a GPU, counted without one, beside MMDetection's Swin."""

import pytest

from crossformer_mm.engine.benchmark.launches import count_launches


@pytest.mark.parametrize('train', [False, True])
def test_a_block_moves_fewer_bytes_than_swins_with_about_as_many_operators(train: bool) -> None:
    swin = count_launches('swin_t', 800, 1344, train=train)
    window = count_launches('window', 800, 1344, train=train)
    assert 0 < window.megabytes <= swin.megabytes
    assert 0 < window.operators <= 1.3 * swin.operators
    # groups of the whole map need one call a block, and padding to multiples of 32 cuts none of them
    assert count_launches('map', 800, 1344, train=train).operators < window.operators


def test_training_moves_more() -> None:
    assert count_launches('map', 64, 96, train=True).megabytes > 2 * count_launches('map', 64, 96).megabytes
