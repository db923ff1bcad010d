"""Trainings of a few weights, in which data and network use all random generators."""

import random
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.dataset import DefaultSampler, InfiniteSampler
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.runner import Runner
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from crossformer_mm.checkpoint import install_reader

install_reader()  # as the tools do

IMAGES = 10  # in batches of 3: the last one of an epoch is smaller
SAMPLERS = {'Epoch': DefaultSampler, 'Iter': InfiniteSampler}


class Noisy(Dataset):
    """Numbers with augmentation by Python's, numpy's and torch's generators."""

    def __init__(self) -> None:
        self.metainfo: dict[str, Any] = {}

    def __len__(self) -> int:
        return IMAGES

    def __getitem__(self, index: int) -> tuple[Tensor]:
        return (torch.rand(2) + torch.tensor([random.random(), np.random.rand() + index]),)


class Dropped(BaseModel):
    """Two linear layers with dropout between them."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(2, 8), nn.Dropout(), nn.Linear(8, 1))

    def forward(self, x: Tensor, mode: str) -> dict[str, Tensor] | list[Tensor]:
        loss = (self.layers(x) - 1).square().mean()
        return {'loss': loss} if mode == 'loss' else [loss]


class Stopped(Exception):
    """Raised to stop a run."""


class StopHook(Hook):
    """Stops a run before an iteration."""

    def __init__(self, iteration: int) -> None:
        self.iteration = iteration

    def before_train_iter(self, runner: Runner, *args: Any, **kwargs: Any) -> None:
        if runner.iter == self.iteration:
            raise Stopped


def small_run(
    folder: Path,
    kind: str = 'Epoch',
    workers: int = 0,
    dataset: Dataset | None = None,
    sampler: type | None = None,
    wrapper: dict[str, Any] | None = None,
    checkpoint: dict[str, Any] | None = None,
    loop: dict[str, Any] | None = None,
    **more: Any,
) -> Runner:
    """A training of 12 iterations, three epochs, with a checkpoint after each iteration."""
    dataset = Noisy() if dataset is None else dataset
    length = {'Epoch': {'max_epochs': 3}, 'Iter': {'max_iters': 12}}[kind]
    torch.manual_seed(0)
    small_run.count = getattr(small_run, 'count', 0) + 1
    return Runner(
        model=Dropped(),
        work_dir=str(folder),
        train_dataloader=DataLoader(
            dataset,
            batch_size=3,
            sampler=(sampler or SAMPLERS[kind])(dataset, seed=0),
            num_workers=workers,
        ),
        train_cfg={'type': f'Resumable{kind}Loop', **length, **(loop or {})},
        optim_wrapper={'optimizer': {'type': 'AdamW', 'lr': 0.1}, **(wrapper or {})},
        param_scheduler=[
            {'type': 'LinearLR', 'start_factor': 0.1, 'begin': 0, 'end': 5, 'by_epoch': False},
            {'type': 'MultiStepLR', 'milestones': [2], 'by_epoch': kind == 'Epoch'},
        ],
        default_hooks={
            'checkpoint': {
                'type': 'AtomicCheckpointHook',
                'by_epoch': False,
                'interval': 1,
                **(checkpoint or {}),
            }
        },
        randomness={'seed': 3},
        experiment_name=f'small-{small_run.count}',
        **more,
    )


def assert_same_state(one: Path, other: Path, name: str = 'iter_12.pth') -> None:
    """Check that two checkpoints have the same weights, optimizer and schedulers, to the bit."""
    states = [torch.load(folder / name, weights_only=False) for folder in (one, other)]
    for part in ('state_dict', 'optimizer'):
        torch.testing.assert_close(*(state[part] for state in states), rtol=0, atol=0)
    assert states[0]['param_schedulers'] == states[1]['param_schedulers']
