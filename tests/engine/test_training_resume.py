"""A run that stops anywhere resumes bit-exactly."""

import copy
import logging
import os
import random
import signal
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import psutil
import pytest
import torch
from mmdet.engine.hooks import PipelineSwitchHook
from mmengine.dataset import DefaultSampler
from small_runs import IMAGES, Noisy, StopHook, Stopped, assert_same_state, small_run
from torch.utils.data import DataLoader, Dataset

from crossformer_mm.engine.replay import ReplayedLoader, seed_of, seed_step
from crossformer_mm.engine.train import EMA
from crossformer_mm.utils.errors import UserError


@pytest.fixture(scope='module')
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The work folders of uninterrupted runs."""
    folders = {kind: tmp_path_factory.mktemp(kind) for kind in ('Epoch', 'Iter')}
    for kind, folder in folders.items():
        small_run(folder, kind).train()
    return folders


def stop_and_resume(folder: Path, iteration: int, **settings: object) -> None:
    """Train up to an iteration, then from the last checkpoint to the end."""
    stopped = small_run(folder, custom_hooks=[StopHook(iteration)], **settings)
    with pytest.raises(Stopped):
        stopped.train()
    small_run(folder, resume=True, **settings).train()


@pytest.mark.parametrize('kind', ['Epoch', 'Iter'])
@pytest.mark.parametrize(('iteration', 'workers'), [(1, 0), (4, 0), (11, 0), (6, 2)])
def test_resumed_run_ends_with_the_same_weights(
    whole: dict[str, Path], tmp_path: Path, kind: str, iteration: int, workers: int
) -> None:
    stop_and_resume(tmp_path, iteration, kind=kind, workers=workers)
    assert_same_state(tmp_path, whole[kind])


@pytest.mark.parametrize('kind', ['Epoch', 'Iter'])
def test_the_seed_matters(whole: dict[str, Path], tmp_path: Path, kind: str) -> None:
    """Otherwise the test above would pass for a run without randomness."""
    run = small_run(tmp_path, kind)
    run.set_randomness(seed=4)
    run.train()
    with pytest.raises(AssertionError, match='Tensor-likes are not equal'):
        assert_same_state(tmp_path, whole[kind])


def test_averages_of_weights(whole: dict[str, Path], tmp_path: Path) -> None:
    averaged, stopped = ({'custom_hooks': [*hooks, EMA]} for hooks in ((), (StopHook(5),)))
    small_run(tmp_path / 'whole', **averaged).train()
    with pytest.raises(Stopped):
        small_run(tmp_path / 'stopped', **stopped).train()
    small_run(tmp_path / 'stopped', resume=True, **averaged).train()
    assert_same_state(tmp_path / 'whole', tmp_path / 'stopped')
    found, resumed, plain = (
        torch.load(folder / 'iter_12.pth', weights_only=False)
        for folder in (tmp_path / 'whole', tmp_path / 'stopped', whole['Epoch'])
    )
    torch.testing.assert_close(resumed['ema_state_dict'], found['ema_state_dict'], rtol=0, atol=0)
    name = 'layers.0.weight'
    assert torch.equal(found['ema_state_dict'][f'module.{name}'], plain['state_dict'][name])
    assert not torch.equal(found['state_dict'][name], plain['state_dict'][name])  # the average


def test_gradients_that_wait_for_their_update(tmp_path: Path) -> None:
    for stop in (5, 6):
        folder = tmp_path / str(stop)
        stop_and_resume(folder, stop, wrapper={'accumulative_counts': 4, 'clip_grad': {'max_norm': 1.0}})
    small_run(tmp_path, wrapper={'accumulative_counts': 4, 'clip_grad': {'max_norm': 1.0}}).train()
    for stop in (5, 6):
        assert_same_state(tmp_path / str(stop), tmp_path)
    assert set(torch.load(tmp_path / 'iter_5.pth', weights_only=False)['gradients']) == {
        *('layers.0.weight', 'layers.0.bias', 'layers.2.weight', 'layers.2.bias')
    }
    assert 'gradients' not in torch.load(tmp_path / 'iter_8.pth', weights_only=False)


def test_finite_samplers_are_drawn_again_for_a_run_that_counts_iterations(tmp_path: Path) -> None:
    """``DefaultSampler`` in a run by iterations, which stops in its third pass over the data."""
    small_run(tmp_path / 'whole', 'Iter', sampler=DefaultSampler).train()
    stop_and_resume(tmp_path / 'stopped', 10, kind='Iter', sampler=DefaultSampler)
    assert_same_state(tmp_path / 'stopped', tmp_path / 'whole')


class Recorder(Dataset):
    """Records the requested indices; a sample has random numbers as its augmentation."""

    def __init__(self) -> None:
        self.asked: list[int] = []

    def __len__(self) -> int:
        return IMAGES

    def __getitem__(self, index: int) -> tuple[int, int, float, float, float]:
        self.asked.append(index)
        return os.getpid(), index, random.random(), np.random.rand(), torch.rand(()).item()


def replayed(workers: int = 0) -> ReplayedLoader:
    dataset = Recorder()
    sampler = DefaultSampler(dataset, seed=1)
    return ReplayedLoader(
        DataLoader(dataset, batch_size=3, sampler=sampler, num_workers=workers, collate_fn=list), seed=5
    )


def test_augmentation_does_not_depend_on_the_workers() -> None:
    def drawn(workers: int) -> list:
        return [sample[1:] for batch in replayed(workers) for sample in batch]

    assert drawn(0) == drawn(1) == drawn(3)
    assert len({sample[1:] for sample in drawn(0)}) == IMAGES  # no two images alike


def test_nothing_is_fetched_before_it_is_asked_for() -> None:
    loader = replayed()
    batches = iter(loader)
    assert loader.dataset.asked == []
    next(batches)
    assert len(loader.dataset.asked) == 3


def test_what_is_left_out_is_not_loaded() -> None:
    loader = replayed()
    all_samples = [sample[1:] for batch in loader for sample in batch]
    loader = replayed()
    loader.batch_sampler.start(2, skipped=2)
    assert [sample[1:] for batch in loader for sample in batch] == all_samples[6:]
    assert len(loader.dataset.asked) == IMAGES - 6


def test_seeds_differ_in_all_that_they_are_made_of() -> None:
    seeds = {seed_of(*numbers) for numbers in np.ndindex(3, 2, 50, 4)}
    assert len(seeds) == 3 * 2 * 50 * 4
    assert all(0 <= seed < 2**31 for seed in seeds)


def test_steps_are_seeded_in_every_generator() -> None:
    def draw(iteration: int) -> tuple[float, float, float]:
        seed_step(7, iteration)
        return random.random(), np.random.rand(), torch.rand(()).item()

    assert draw(1) == draw(1)
    assert all(a != b for a, b in zip(draw(1), draw(2), strict=True))


def test_a_dataset_is_seen_through() -> None:
    """The attributes of the wrapped dataset are available, also in a worker that unpickled it."""
    dataset = copy.deepcopy(replayed().dataset)
    dataset.dataset.metainfo = {'classes': ('a',)}
    assert dataset.metainfo == {'classes': ('a',)}
    assert not hasattr(dataset, 'no_such_thing')


class Staged(Dataset):
    """Samples that a pipeline makes of their numbers."""

    def __init__(self) -> None:
        self.pipeline = float

    def __len__(self) -> int:
        return IMAGES

    def __getitem__(self, index: int) -> object:
        return self.pipeline(index)


@pytest.mark.parametrize('workers', [0, 1])
def test_the_last_epochs_have_the_pipeline_that_a_hook_sets(workers: int) -> None:
    """RTMDet's have no mosaics."""
    settings = {'num_workers': workers, 'persistent_workers': workers > 0, 'collate_fn': list}
    run = SimpleNamespace(train_dataloader=ReplayedLoader(DataLoader(Staged(), 5, **settings), seed=1))
    run.logger = logging.getLogger()
    hook = PipelineSwitchHook(switch_epoch=1, switch_pipeline=[str])
    for run.epoch, kind in enumerate((float, str, str)):
        hook.before_train_epoch(run)
        assert {type(sample) for batch in run.train_dataloader for sample in batch} == {kind}


class Nothing(Noisy):
    """A dataset without images."""

    def __len__(self) -> int:
        return 0


def test_no_data_is_an_error_and_no_endless_loop(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r'no batch to train on: .* smaller batches'):
        small_run(tmp_path, 'Iter', dataset=Nothing()).train()


def test_a_worker_does_not_outlive_a_run_that_is_killed() -> None:
    """torch's own workers would, while sending a sample larger than the buffer of a pipe."""
    read, write = os.pipe()
    if not (run := os.fork()):
        images = DataLoader([bytes(1 << 20)] * 9, num_workers=1, collate_fn=list)
        batches = iter(ReplayedLoader(images, seed=5))
        next(batches)
        os.write(write, str(psutil.Process().children()[0].pid).encode())
        signal.pause()
    worker = psutil.Process(int(os.read(read, 100)))
    time.sleep(0.5)  # it is at the next sample, which nobody takes
    os.kill(run, signal.SIGKILL)
    os.waitpid(run, 0)
    try:
        worker.wait(timeout=15)
    except psutil.TimeoutExpired:
        worker.kill()
        raise
