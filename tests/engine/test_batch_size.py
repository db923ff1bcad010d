"""``--batch-size auto``: the search, what it sets, and real trials that run out of memory."""

import argparse
import os
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.dist import is_distributed

from crossformer_mm.checkpoint.reader import open_checkpoint
from crossformer_mm.data.classes import read_data, set_classes
from crossformer_mm.engine import batch_size, cli
from crossformer_mm.engine import train as train_command
from crossformer_mm.engine.batch_size import (
    AUTO,
    _recipe,
    _set_batch,
    find_batch_size,
    largest_batch,
    needs_trials,
)
from crossformer_mm.engine.train import training_config, training_parser
from crossformer_mm.utils.errors import UserError

# Trials of a training whose process may have only some more memory than its first trial took.
LIMITED = """
import resource, sys
from pathlib import Path
import torch
from mmengine.config import Config
from crossformer_mm.engine.batch_size import Trial, largest_batch

torch.set_num_threads(1)
torch.backends.mkldnn.enabled = False  # its error does not say that memory ran out
trial = Trial(Config.fromfile(sys.argv[1]), averaged=False)
assert trial.fits(1)
pages = int(Path('/proc/self/statm').read_text().split()[0])
limit = pages * resource.getpagesize() + 60 * 2**20
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
size = largest_batch(trial.fits, 64)
print(size, *trial.tried)
assert trial.fits(1)  # what did not fit is gone
"""


@pytest.fixture
def train_with(flat_config: Path, coco_root: Path) -> Callable[..., Config]:
    """A function from words of the command line to the config of a training."""

    def parse(*words: str) -> Config:
        return training_config(options_of(flat_config, '--data-root', coco_root, *words))

    return parse


def options_of(*words: object) -> argparse.Namespace:
    return training_parser().parse_args(list(map(str, words)))


@pytest.mark.parametrize('most', [1, 2, 7, 16, 100])
def test_the_search_finds_the_limit_in_few_trials(most: int) -> None:
    for limit in range(most + 3):
        tried: list[int] = []
        found = largest_batch(lambda size: tried.append(size) or size <= limit, most)  # noqa: B023
        assert found == min(limit, most)
        assert len(tried) == len({*tried}) <= 2 * max(most, 1).bit_length()
        assert max(tried) <= min(max(2 * limit, 1), most)


@pytest.mark.parametrize(
    ('fit', 'accumulate', 'size', 'counts'),
    [(16, None, 16, 1), (15, None, 8, 2), (6, None, 6, 3), (1, None, 1, 16), (4, 2, 4, 2), (8, 1, 8, 1)],
)
def test_steps_per_update_make_up_for_what_does_not_fit(
    train_with: Callable[..., Config], fit: int, accumulate: int | None, size: int, counts: int
) -> None:
    cfg = train_with()
    line = _set_batch(cfg, fit, _recipe(cfg), accumulate)
    assert cfg.train_dataloader.batch_size == size
    assert cfg.optim_wrapper.get('accumulative_counts', 1) == counts
    assert line.startswith(f'batch size {size}: {fit} fit with 10% of the memory to spare; ')
    assert line.endswith(f'--accumulate {counts} makes {size * counts} images per update, the recipe has 16')


def test_any_batch_suits_a_scaled_learning_rate(train_with: Callable[..., Config]) -> None:
    cfg = train_with('--auto-scale-lr')
    assert _recipe(cfg) is None
    _set_batch(cfg, 40, None, None)
    assert cfg.train_dataloader.batch_size == 40
    assert 'accumulative_counts' not in cfg.optim_wrapper


def test_the_batch_of_a_config_without_a_recipe(train_with: Callable[..., Config]) -> None:
    cfg = train_with('--accumulate', '3', '--cfg-options', 'train_dataloader.batch_size=5')
    cfg.auto_scale_lr = None
    assert _recipe(cfg) == 15


@pytest.mark.skipif(torch.cuda.is_available(), reason='refused only without a GPU')
def test_trials_do_not_wait_for_other_processes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """One that runs out of memory in the middle of a step would leave them there."""

    class Trial:
        images, tried = 10, (1, 2)

        def __init__(self, cfg: Config, averaged: bool) -> None:
            assert is_distributed()

        def fits(self, size: int) -> bool:
            return not is_distributed()

    monkeypatch.setattr(batch_size, 'Trial', Trial)
    cfg = Config({'train_dataloader': {'batch_size': 2}, 'optim_wrapper': {}})
    torch.distributed.init_process_group('gloo', f'file://{tmp_path}/store', rank=0, world_size=1)
    try:
        assert find_batch_size(cfg, None, averaged=False).startswith('batch size 2: 2 fit')
        assert is_distributed()
    finally:
        torch.distributed.destroy_process_group()


def test_refused_on_cpus(train_with: Callable[..., Config]) -> None:
    cfg = train_with('--batch-size', 'auto')
    with pytest.raises(UserError, match=r'--batch-size auto: needs a GPU.* such as --batch-size 2'):
        needs_trials(cfg, options_of('x', '--batch-size', 'auto'), None)


def test_a_resume_keeps_the_batch(train_with: Callable[..., Config], tmp_path: Path) -> None:
    cfg = train_with('--batch-size', 'auto')
    old = train_with('--batch-size', '7', '--accumulate', '3')
    text = Config(old.to_dict(), format_python_code=False).pretty_text
    state = {'state_dict': {'a': torch.zeros(1)}}
    for name, meta in (('good', {'cfg': text}), ('bare', {})):
        torch.save({**state, 'meta': meta}, tmp_path / f'{name}.pth')
    options = options_of('x', '--batch-size', 'auto')
    assert not needs_trials(cfg, options, open_checkpoint(tmp_path / 'good.pth'))
    assert cfg.train_dataloader.batch_size == 7
    assert cfg.optim_wrapper.accumulative_counts == 3
    with pytest.raises(UserError, match=r'bare.pth does not state its batch size; give a number'):
        needs_trials(cfg, options, open_checkpoint(tmp_path / 'bare.pth'))


def small_config(narrow_config: Callable[[str], Config], root: Path, path: Path) -> Path:
    """A narrow config with its data, as a file."""
    words = ['--data-root', root, '--work-dir', path.parent / 'work']
    narrow_config('mask_rcnn_crossformer_pp_s').dump(path)
    cfg = training_config(options_of(path, *words))
    set_classes(cfg, read_data(cfg, ['train_dataloader']).classes)
    cfg.dump(path)
    return path


@pytest.mark.slow
def test_trials_that_run_out_of_memory(
    narrow_config: Callable[[str], Config], coco_root: Path, tmp_path: Path
) -> None:
    path = small_config(narrow_config, coco_root, tmp_path / 'narrow.py')
    words = [sys.executable, '-c', LIMITED, str(path)]
    exact = {**os.environ, 'MALLOC_MMAP_THRESHOLD_': '65536', 'MALLOC_ARENA_MAX': '1'}  # freed is free
    done = subprocess.run(words, capture_output=True, text=True, check=False, env=exact)
    assert done.returncode == 0, done.stderr[-2000:]
    size, *tried = map(int, done.stdout.splitlines()[-1].split())
    assert 1 < size < 64
    assert size + 1 in tried  # did not fit


@pytest.mark.slow
def test_trials_leave_no_trace(
    narrow_config: Callable[[str], Config],
    coco_root: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = tmp_path / 'narrow.py'
    narrow_config('mask_rcnn_crossformer_pp_s').dump(path)
    monkeypatch.setattr(train_command, 'needs_trials', lambda _, options, __: options.batch_size == AUTO)
    words = [path, '--data-root', coco_root, '--epochs', 1, '--seed', 1, '--no-val']
    for folder, more in (('auto', ['auto']), ('given', [6, '--accumulate', 3])):
        arguments = [*words, '--work-dir', tmp_path / folder, '--batch-size', *more]
        assert cli.run(training_parser(), train_command.train, list(map(str, arguments))) == 0
    assert 'batch size 6: 6 fit' in capsys.readouterr().out
    states = [torch.load(tmp_path / name / 'epoch_1.pth', weights_only=False) for name in ('auto', 'given')]
    for part in ('state_dict', 'optimizer'):
        torch.testing.assert_close(states[0].get(part), states[1].get(part), rtol=0, atol=0)


def test_trials_leave_the_random_generators(
    narrow_config: Callable[[str], Config], coco_root: Path, tmp_path: Path
) -> None:
    cfg = Config.fromfile(small_config(narrow_config, coco_root, tmp_path / 'narrow.py'))

    def drawn() -> list[float]:
        return [random.random(), np.random.random(), torch.rand(1).item()]

    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    before = drawn()
    random.setstate(states[0])
    np.random.set_state(states[1])
    torch.set_rng_state(states[2])
    find_batch_size(cfg, accumulate=16, averaged=True)
    assert drawn() == before
