"""Detectors and segmentors trained by the tool, stopped in every way, and resumed."""

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import psutil
import pytest
import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from crossformer_mm.checkpoint.resume import latest_intact
from crossformer_mm.engine import cli
from crossformer_mm.engine import test as test_command
from crossformer_mm.engine import train as train_command
from crossformer_mm.utils.outputs import write_output

TOOLS = Path(__file__).parents[2] / 'tools'
TRAIN = 'annotations/instances_train2017.json'
EACH_ITERATION = ('default_hooks.checkpoint.by_epoch=False', 'default_hooks.checkpoint.interval=1')


@HOOKS.register_module(force=True)
class SignalHook(Hook):
    """Sends this process a signal before the third iteration, while the worker processes are running."""

    def __init__(self, number: int) -> None:
        self.number = number

    def before_train_iter(self, runner: Runner, *args: Any, **kwargs: Any) -> None:
        if runner.iter == 2:
            assert len(children()) == 2
            os.kill(os.getpid(), self.number)


def children() -> list[psutil.Process]:
    return psutil.Process().children(recursive=True)


def train(*words: str | Path | int) -> int:
    """The exit status of ``tools/train.py``."""
    return cli.run(train_command.training_parser(), train_command.train, list(map(str, words)))


@pytest.fixture(scope='module')
def detector(narrow_config: Callable[[str], Config], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A narrow Mask R-CNN as a file; two epochs of three iterations."""
    cfg = narrow_config('mask_rcnn_crossformer_s')
    cfg.train_cfg.update(max_epochs=2, val_interval=2)
    cfg.default_hooks.logger.interval = 1
    cfg.train_dataloader.batch_size = 2
    path = tmp_path_factory.mktemp('config') / 'detector.py'
    cfg.dump(path)
    return path


@pytest.fixture(scope='module')
def segmentor(
    narrow_segmentor: Callable[[str], Config], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Path]:
    """A narrow Semantic FPN as a file, four iterations, and noise in ADE20K's layout to train on."""
    root = tmp_path_factory.mktemp('ade')
    random = np.random.default_rng(0)
    for split in ('training', 'validation'):
        for kind, suffix, shape in (('images', 'jpg', (80, 96, 3)), ('annotations', 'png', (80, 96))):
            (root / kind / split).mkdir(parents=True)
            for i in range(3):
                array = random.integers(0, 150, shape, np.uint8)
                cv2.imwrite(str(root / kind / split / f'{i}.{suffix}'), array)
    cfg = narrow_segmentor('fpn_crossformer_s')
    for loader in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
        cfg[loader].dataset.data_root = str(root)
    cfg.train_cfg.update(max_iters=4, val_interval=4)
    cfg.default_hooks.checkpoint.update(interval=3, save_best=None)
    path = root / 'segmentor.py'
    cfg.dump(path)
    return path, root


def assert_same_weights(one: Path, other: Path, part: str = 'state_dict') -> None:
    weights = [torch.load(path, weights_only=False)[part] for path in (one, other)]
    torch.testing.assert_close(*weights, rtol=0, atol=0)


def log_of(work_dir: Path) -> str:
    """The log of the latest run there."""
    return max(work_dir.glob('*/*.log')).read_text()


def error_of(capsys: pytest.CaptureFixture[str]) -> str:
    """The error line of a tool."""
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith('error: ')
    return last


@pytest.fixture(scope='module')
def whole(detector: Path, coco_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The work folder of an uninterrupted run without a given seed."""
    work_dir = tmp_path_factory.mktemp('whole')
    assert train(detector, '--data-root', coco_root, '--work-dir', work_dir) == 0
    return work_dir


def test_a_detector_resumes_to_the_same_weights(
    detector: Path, coco_root: Path, whole: Path, tmp_path: Path
) -> None:
    """The latest checkpoint is damaged, the initial weights are gone, there are other workers and no seed."""
    for name in ('epoch_1.pth', 'epoch_2.pth'):
        shutil.copy(whole / name, tmp_path)
    content = (tmp_path / 'epoch_2.pth').read_bytes()
    (tmp_path / 'epoch_2.pth').write_bytes(content[: len(content) // 2])
    words = [
        detector,
        '--data-root',
        coco_root,
        '--work-dir',
        tmp_path,
        '--resume',
        '--pretrained',
        'gone.pth',
    ]
    assert train(*words, '--cfg-options', 'train_dataloader.num_workers=2') == 0
    assert_same_weights(tmp_path / 'epoch_2.pth', whole / 'epoch_2.pth')
    log = log_of(tmp_path)
    assert f'WARNING - ignored: {tmp_path}/epoch_2.pth: is cut off or damaged' in log
    assert f'resuming from {tmp_path}/epoch_1.pth' in log
    assert 'trained differently' not in log and 'without effect' not in log
    assert children() == []


def test_resuming_what_is_complete_or_does_not_fit_writes_nothing(
    detector: Path, coco_root: Path, whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(whole.rglob('*'))
    words = [detector, '--data-root', coco_root, '--work-dir', whole, '--resume']
    assert train(*words) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith(f'{whole}/epoch_2.pth: this training is already complete (epoch 2 of 2); evaluate')

    longer = ['--cfg-options', 'train_cfg.max_epochs=3']
    assert train(*words, *longer, 'optim_wrapper.paramwise_cfg.norm_decay_mult=0.0') == 1
    assert 'epoch_2.pth: does not fit the config: its optimizer has' in error_of(capsys)
    root = shutil.copytree(coco_root, tmp_path / 'own')
    data = json.loads((root / TRAIN).read_text())
    data['categories'].reverse()
    (root / TRAIN).write_text(json.dumps(data))
    shutil.copy(root / TRAIN, root / 'annotations' / 'instances_val2017.json')
    words[2] = root
    assert train(*words, '--val-images', 'train2017', *longer) == 1
    assert 'epoch_2.pth: was trained on the same classes in another order than the data has' in error_of(
        capsys
    )
    assert sorted(whole.rglob('*')) == before


@pytest.mark.slow
def test_a_segmentor_resumes_to_the_same_weights(segmentor: tuple[Path, Path], tmp_path: Path) -> None:
    config, _ = segmentor
    assert train(config, '--work-dir', tmp_path / 'whole') == 0
    (tmp_path / 'resumed').mkdir()
    shutil.copy(tmp_path / 'whole' / 'iter_3.pth', tmp_path / 'resumed')
    assert train(config, '--work-dir', tmp_path / 'resumed', '--resume') == 0
    assert_same_weights(tmp_path / 'resumed' / 'iter_4.pth', tmp_path / 'whole' / 'iter_4.pth')


@pytest.mark.slow
def test_averaged_weights_are_resumed_and_tested(segmentor: tuple[Path, Path], tmp_path: Path) -> None:
    """With mmengine's EMAHook, a checkpoint has the averaged weights, and the others in a separate entry."""
    cfg = Config.fromfile(segmentor[0])
    cfg.custom_hooks = [*cfg.custom_hooks, {'type': 'EMAHook', 'momentum': 0.3}]
    cfg.default_hooks.logger.interval = 1
    config = tmp_path / 'averaged.py'
    cfg.dump(config)
    assert train(config, '--work-dir', tmp_path / 'whole') == 0
    (tmp_path / 'resumed').mkdir()
    shutil.copy(tmp_path / 'whole' / 'iter_3.pth', tmp_path / 'resumed')
    assert train(config, '--work-dir', tmp_path / 'resumed', '--resume') == 0
    last = tmp_path / 'whole' / 'iter_4.pth'
    for part in ('state_dict', 'ema_state_dict'):
        assert_same_weights(tmp_path / 'resumed' / 'iter_4.pth', last, part)
    checkpoint = torch.load(last, weights_only=False)
    name = 'decode_head.conv_seg.weight'
    assert not torch.equal(checkpoint['state_dict'][name], checkpoint['ema_state_dict'][f'module.{name}'])
    words = [config, last, '--work-dir', tmp_path / 'test']
    scores = test_command.evaluate(test_command.evaluation_parser().parse_args(list(map(str, words))))
    validated = json.loads(next(tmp_path.glob('whole/*/vis_data/scalars.json')).read_text().splitlines()[-1])
    assert scores['aAcc'] == pytest.approx(validated['aAcc'])


@pytest.mark.parametrize(
    ('number', 'status', 'more', 'line'),
    [
        (
            signal.SIGINT,
            130,
            EACH_ITERATION,
            'interrupted; --resume continues from the last checkpoint in {}',
        ),
        pytest.param(
            signal.SIGTERM, 143, (), 'terminated; there is no checkpoint yet', marks=pytest.mark.slow
        ),
    ],
)
def test_an_interrupt_says_how_to_go_on(
    detector: Path,
    coco_root: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    number: int,
    status: int,
    more: tuple[str, ...],
    line: str,
) -> None:
    cfg = Config.fromfile(detector)
    cfg.custom_hooks.append({'type': 'SignalHook', 'number': int(number)})
    cfg.dump(tmp_path / 'config.py')
    write_output(tmp_path / 'work' / 'epoch_9.pth', lambda part: part.write_text('of an earlier run'))
    words = [tmp_path / 'config.py', '--data-root', coco_root, '--work-dir', tmp_path / 'work']
    settings = ['train_dataloader.num_workers=2', 'train_dataloader.persistent_workers=True']
    assert train(*words, '--cfg-options', *settings, *more) == status
    assert capsys.readouterr().err.splitlines()[-1] == line.format(tmp_path / 'work')
    assert children() == []


def test_a_lost_loss_names_the_images_and_keeps_the_checkpoints(
    detector: Path, coco_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [detector, '--data-root', coco_root, '--work-dir', tmp_path]
    settings = [*EACH_ITERATION, 'optim_wrapper.optimizer.lr=1e30', 'param_scheduler.0.start_factor=1']
    assert train(*words, '--cfg-options', *settings) == 1
    message = error_of(capsys)
    assert 'iteration 2: loss_' in message
    assert f'{coco_root}/train2017/' in message
    checkpoint = torch.load(tmp_path / 'iter_1.pth', weights_only=False)
    assert all(tensor.isfinite().all() for tensor in checkpoint['state_dict'].values())
    checkpoint, complaints = latest_intact([tmp_path])
    assert (checkpoint.path, complaints) == (tmp_path / 'iter_1.pth', [])


@pytest.mark.slow
def test_a_batch_without_any_object_trains(detector: Path, coco_root: Path, tmp_path: Path) -> None:
    root = shutil.copytree(coco_root, tmp_path / 'own')
    data = json.loads((root / TRAIN).read_text())
    first = data['images'][0]['id']
    data['annotations'] = [a for a in data['annotations'] if a['image_id'] == first]
    (root / TRAIN).write_text(json.dumps(data))
    words = [detector, '--data-root', root, '--work-dir', tmp_path / 'work', '--clip-grad', 10]
    settings = ['train_dataloader.dataset.filter_cfg.filter_empty_gt=False', 'train_cfg.max_epochs=1']
    assert train(*words, '--accumulate', 2, '--cfg-options', *settings) == 0
    lines = next((tmp_path / 'work').glob('*/vis_data/scalars.json')).read_text().splitlines()
    losses = [row['loss_mask'] for row in map(json.loads, lines) if 'loss_mask' in row]
    assert len(losses) == 3  # a mean over the run so far, which begins without objects or with them
    assert 'the weights are updated every 2 iterations, from 4 images' in log_of(tmp_path / 'work')


@pytest.mark.slow
def test_running_out_of_memory_lists_the_remedies(
    detector: Path, coco_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [detector, '--data-root', coco_root, '--work-dir', tmp_path, '--batch-size', 4]
    limits = resource.getrlimit(resource.RLIMIT_AS)
    in_use = psutil.Process().memory_info().vms
    resource.setrlimit(resource.RLIMIT_AS, (in_use + 2**29, limits[1]))
    try:
        status = train(*words, '--cfg-options', 'train_dataloader.dataset.pipeline.2.scale=(4000,4000)')
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)
    assert status == 1
    message = error_of(capsys)
    assert message.startswith('error: out of memory (')
    assert '--batch-size 2; ' in message and '--with-cp; ' in message and '--amp bfloat16; ' in message


@pytest.mark.parametrize('option', ['--pretrained', '--resume'])
def test_weights_that_do_not_fit_are_refused_before_anything_is_written(
    detector: Path,
    coco_root: Path,
    whole: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    option: str,
) -> None:
    words = [
        detector,
        '--data-root',
        coco_root,
        '--work-dir',
        tmp_path / 'work',
        option,
        whole / 'epoch_1.pth',
    ]
    assert train(*words, '--cfg-options', 'model.backbone.arch.depths=(1,1,5,1)') == 1
    assert f'{whole}/epoch_1.pth: does not fit the model' in error_of(capsys)
    assert not (tmp_path / 'work').exists()


@pytest.mark.slow
def test_a_run_killed_again_and_again_ends_with_the_same_weights(
    detector: Path, coco_root: Path, whole: Path, tmp_path: Path
) -> None:
    """By SIGKILL, while checkpoints are written and at other times; all processes end soon after."""
    seed = torch.load(whole / 'epoch_1.pth', weights_only=False)['meta']['seed']
    words = [sys.executable, TOOLS / 'train.py', detector, '--data-root', coco_root, '--work-dir', tmp_path]
    words += ['--resume', '--cfg-options', 'train_dataloader.num_workers=1', f'randomness.seed={seed}']
    moments = [*('.iter_1.', '.iter_2.', '.iter_2.'), 'iter_3.pth', '.iter_5.', '.iter_6.']
    half_written = 0
    for moment in moments:
        process = subprocess.Popen(list(map(str, [*words, *EACH_ITERATION])), stderr=subprocess.DEVNULL)
        while process.poll() is None and not any(
            path.name.startswith(moment) for path in tmp_path.glob('*.p*')
        ):
            time.sleep(0.0005)
        family = psutil.Process(process.pid).children(recursive=True)
        process.kill()
        process.wait()
        half_written += any(tmp_path.glob('.*.part'))
        with suppress(psutil.NoSuchProcess):
            assert psutil.wait_procs(family, timeout=15)[1] == []
    subprocess.run(list(map(str, [*words, *EACH_ITERATION])), check=True)
    assert half_written
    assert_same_weights(tmp_path / 'iter_6.pth', whole / 'epoch_2.pth')
