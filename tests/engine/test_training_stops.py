"""A loss that is not finite, or running out of memory, stops a run with advice."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mmdet.structures import DetDataSample
from mmengine.config import Config
from small_runs import Noisy, small_run
from torch import Tensor

from crossformer_mm.engine.hooks.finite_loss import image_paths, not_finite_losses
from crossformer_mm.engine.memory import memory_advice
from crossformer_mm.utils.errors import UserError, ran_out_of_memory


class Broken(Noisy):
    """One item is NaN."""

    def __getitem__(self, index: int) -> tuple[Tensor]:
        (value,) = super().__getitem__(index)
        return (value / 0 * 0 if index == 4 else value,)


def run_broken(folder: Path, patience: int) -> None:
    hook = {'type': 'FiniteLossHook', 'patience': patience}
    small_run(folder, dataset=Broken(), custom_hooks=[hook]).train()


def test_a_nan_loss_stops_the_run_at_once(tmp_path: Path) -> None:
    with pytest.raises(UserError) as raised:
        run_broken(tmp_path, 1)
    message = str(raised.value)
    assert 'loss is nan, in a batch of the images (paths unknown)' in message
    assert '--resume --clip-grad 1' in message
    assert '\n' not in message
    stopped = int(message.partition(':')[0].removeprefix('iteration '))
    saved = sorted(tmp_path.glob('iter_*.pth'), key=lambda path: path.stat().st_mtime)
    assert [path.name for path in saved] == [f'iter_{i}.pth' for i in range(1, stopped)]
    state = torch.load(saved[-1], weights_only=False)['state_dict'] if saved else {}
    assert all(tensor.isfinite().all() for tensor in state.values())


def test_patience_counts_steps_in_a_row(tmp_path: Path) -> None:
    """The weights are NaN after the first such step, so the checkpoint hook stops the run first."""
    with pytest.raises(UserError, match='weights have become NaN'):
        run_broken(tmp_path / 'saving', 3)
    hook = {'type': 'FiniteLossHook', 'patience': 3}
    run = small_run(tmp_path / 'not', dataset=Broken(), checkpoint={'interval': 12}, custom_hooks=[hook])
    with pytest.raises(UserError) as raised:
        run.train()
    log = next((tmp_path / 'not').glob('*/*.log')).read_text()
    stopped = int(str(raised.value).partition(':')[0].removeprefix('iteration '))
    assert [f'WARNING - iteration {i}: loss is nan' in log for i in range(stopped - 2, stopped + 1)] == [
        *(True, True, False)
    ]


def test_the_losses_and_images_at_fault_are_named() -> None:
    outputs = {'loss': torch.tensor(torch.nan), 'loss_bbox': torch.tensor(torch.inf), 'acc': torch.nan}
    assert not_finite_losses(outputs | {'loss_mask': torch.tensor(1.0)}) == {'loss_bbox': torch.inf}
    assert list(not_finite_losses({'loss': torch.tensor(torch.nan)})) == ['loss']
    assert not_finite_losses({'loss': torch.tensor(1.0), 'acc': torch.nan}) == {}
    samples = [DetDataSample(metainfo={'img_path': f'{name}.jpg'}) for name in 'ab']
    assert image_paths({'inputs': [], 'data_samples': [*samples, DetDataSample()]}) == ['a.jpg', 'b.jpg']
    assert image_paths([torch.zeros(1)]) == []


def test_memory_errors_are_recognised() -> None:
    for allocate in (lambda: torch.empty(2**55), lambda: np.ones(2**45)):
        with pytest.raises(Exception) as raised:
            allocate()
        assert ran_out_of_memory(raised.value)
    assert ran_out_of_memory(torch.OutOfMemoryError('CUDA out of memory. Tried to allocate 2 GiB'))
    assert not ran_out_of_memory(RuntimeError('shapes do not match'))


def settings(step: dict[str, Any], **wrapper: Any) -> Config:
    """The parts of a config that the advice refers to, with one resizing step."""
    loader = {'batch_size': 2, 'dataset': {'dataset': {'pipeline': [{'type': 'Load'}, step]}}}
    return Config(
        {
            'model': {'backbone': {}},
            'train_dataloader': loader,
            'test_dataloader': loader,
            'optim_wrapper': wrapper,
        }
    )


def test_remedies_are_in_order_and_those_in_use_are_left_out() -> None:
    error = RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 5 bytes.\nMore")
    text = memory_advice(settings({'type': 'Resize', 'scale': (1333, 800)}), error)
    assert text.startswith("out of memory (DefaultCPUAllocator: can't allocate memory: you tried")
    remedies = ['--batch-size 1', '--with-cp', '--amp', '--image-size 608', '--accumulate 2']
    assert sorted(remedies, key=text.index) == remedies
    assert '\n' not in text
    text = memory_advice(settings({'type': 'CenterCrop', 'crop_size': 512}), error)
    assert '--image-size 384' in text

    cfg = settings({'type': 'RandomChoiceResize'}, type='BFloat16OptimWrapper')
    cfg.train_dataloader.batch_size = 1
    cfg.model.backbone.with_cp = True
    text = memory_advice(cfg, MemoryError())
    assert text.startswith('out of memory (MemoryError)')
    assert "smaller scales in the config's pipeline" in text
    assert not any(option in text for option in ('--batch-size', '--with-cp', '--amp', '--accumulate'))
