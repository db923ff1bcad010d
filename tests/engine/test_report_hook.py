"""The page on a training: when it is written, what it says, and that the training stays the same."""

import os
import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.evaluator import BaseMetric, Evaluator
from page_files import ReadPage
from small_runs import Noisy, StopHook, Stopped, assert_same_state, small_run
from torch.utils.data import DataLoader

from crossformer_mm.engine.config_options import given_options
from crossformer_mm.engine.hooks import report
from crossformer_mm.engine.hooks.report import REPORT, ReportHook, reported
from crossformer_mm.engine.train import training_parser
from crossformer_mm.engine.training_report import TrainingReport, _best
from crossformer_mm.utils.errors import UserError
from crossformer_mm.utils.outputs import is_output


class Score(BaseMetric):
    """A metric with given values."""

    default_prefix = 'coco'

    def __init__(self, values: list[float]) -> None:
        super().__init__()
        self.values = iter(values)

    def process(self, data_batch: Any, data_samples: Any) -> None:
        """Record only that there was a batch."""
        self.results.append(1)

    def compute_metrics(self, results: list[int]) -> dict[str, float]:
        """The next value."""
        return {'bbox_mAP': next(self.values)}


def run(folder: Path, scores: list[float] | None = None, **more: Any) -> Any:
    """A small training, with a validation per epoch if there are scores."""
    cfg = Config(
        {'model': {}, 'optim_wrapper': {}, 'work_dir': str(folder)},
        filename='configs/my_run.py',
        cfg_text='#',
    )
    if scores is not None:
        more |= {
            'val_dataloader': DataLoader(Noisy()),
            'val_cfg': {},
            'val_evaluator': Evaluator(Score(scores)),
        }
    return small_run(folder, cfg=cfg, default_scope='mmengine', **more)


def train(runner: Any, *options: str) -> str:
    """Train with a page; returns its text."""
    with reported(runner, options, []):
        runner.train()
    return shown(Path(runner.work_dir))


def shown(folder: Path) -> str:
    assert is_output(folder / REPORT)
    return ' '.join(ReadPage((folder / REPORT).read_text('utf-8')).text)


def test_a_training_without_validation(tmp_path: Path) -> None:
    text = train(run(tmp_path), '--lr', '1')
    assert 'my_run: finished' in text
    assert 'epoch 3 of 3, iteration 12 of 12' in text
    assert 'crossformer test configs/my_run.py' in text
    assert 'iter_12.pth' in text
    assert '--lr 1' in text
    assert '--resume' not in text
    assert 'Training loss' in text
    assert 'Scores of the validations' not in text


def test_the_best_score_and_its_epoch(tmp_path: Path) -> None:
    text = train(run(tmp_path, [0.25, 0.5, float('nan')]))
    assert '0.5 best box mAP, epoch 2' in text
    assert text.count('Scores of the validations') == 1


@pytest.mark.parametrize('more', [{'rule': 'less'}, {'less_keys': ['coco/bbox_mAP']}])
def test_the_best_score_may_be_the_lowest(tmp_path: Path, more: dict) -> None:
    settings = {'type': 'CheckpointHook', 'save_best': ['coco/bbox_mAP'], **more}
    hooks = Config({'default_hooks': {'checkpoint': settings}})
    runner = SimpleNamespace(cfg=hooks, train_loop=None)
    rows = [{'step': 10, 'coco/bbox_mAP': 0.5}, {'step': 20, 'coco/bbox_mAP': 0.25}]
    assert _best(runner, rows) == ('box mAP, iteration 20', '0.25')


def test_a_training_that_stops_early(tmp_path: Path) -> None:
    hook = {'type': 'EarlyStopHook', 'patience': 1}
    text = train(run(tmp_path, [0.25, 0.25, 0.5], custom_hooks=[hook]))
    assert 'my_run: stopped early' in text
    assert 'epoch 2 of 3' in text
    assert 'crossformer train configs/my_run.py --resume' in text


def test_a_training_that_stops_at_once_when_it_is_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its only validation, before the training begins, is on the page."""
    more = {'custom_hooks': [{'type': 'EarlyStopHook', 'patience': 1}], 'checkpoint': {'by_epoch': True}}
    train(run(tmp_path, [0.25, 0.25, 0.5], **more))
    kept: list[int] = []
    monkeypatch.setattr(TrainingReport, 'keep_validation', lambda _, runner, __: kept.append(runner.iter))
    assert 'my_run: stopped early' in train(run(tmp_path, [0.25], resume=True, **more))
    assert kept == [8]


def test_images_that_processes_repeat_are_counted_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three processes with four images each have two of ten images again."""
    hook = ReportHook([], [])
    added: list[int] = []
    monkeypatch.setattr(hook._extremes, 'add', added.append)
    monkeypatch.setattr(report, 'get_world_size', lambda: 3)
    runner = SimpleNamespace(val_dataloader=DataLoader(Noisy(), batch_size=2))
    for rank, expected in enumerate(([0, 1, 2, 3], [0, 1, 2], [0, 1, 2])):
        monkeypatch.setattr(report, 'get_rank', lambda rank=rank: rank)
        for batch in (0, 1):
            hook.after_val_iter(runner, batch, outputs=[2 * batch, 2 * batch + 1])
        assert added == expected
        added.clear()


def test_only_invalid_scores(tmp_path: Path) -> None:
    text = train(run(tmp_path, [float('nan')] * 3))
    assert 'best box' not in text
    assert 'finished' in text


@pytest.mark.parametrize(
    ('error', 'said'),
    [
        (Stopped(), 'stopped: Stopped'),
        (UserError('loss <b> is NaN\nand more'), 'stopped: loss <b> is NaN\\nand more :'),
        (KeyboardInterrupt(), 'my_run: interrupted'),
    ],
)
def test_a_stopped_training_says_so(tmp_path: Path, error: BaseException, said: str) -> None:
    class Stop(StopHook):
        def before_train_iter(self, runner: Any, *args: Any, **kwargs: Any) -> None:
            if runner.iter == self.iteration:
                raise error

    runner = run(tmp_path, [0.25, 0.5, 0.75])
    runner.register_hook(Stop(5))
    with pytest.raises(type(error)):
        train(runner)
    text = shown(tmp_path)
    assert said in text
    assert 'iteration 5 of 12' in text
    assert 'crossformer train configs/my_run.py --resume' in text


def test_a_running_training_has_a_page_at_its_start_and_with_checkpoints(tmp_path: Path) -> None:
    pages: list[str] = []

    class Look(StopHook):
        def before_train_iter(self, runner: Any, *args: Any, **kwargs: Any) -> None:
            pages.append(shown(tmp_path))

    runner = run(tmp_path, checkpoint={'interval': 5})
    runner.register_hook(Look(0))
    train(runner)
    assert len(pages) == 12
    assert 'running : epoch 0 of 3, iteration 0 of 12' in pages[0]
    assert pages[0] == pages[5], 'written once'
    assert 'to go' in pages[6]
    assert 'iteration 5 of 12' in pages[6]
    assert 'iteration 10 of 12' in pages[11]


@pytest.mark.slow
def test_a_resumed_training_is_the_same_and_shown_whole(tmp_path: Path) -> None:
    """With and without the page, also after an interruption, bit for bit."""
    scores = [0.25, 0.5, 0.75]
    small = run(tmp_path / 'plain', scores)
    small.train()
    train(run(tmp_path / 'page', scores))
    assert_same_state(tmp_path / 'plain', tmp_path / 'page')

    stopped = run(tmp_path / 'resumed', scores)
    stopped.register_hook(StopHook(6))
    with pytest.raises(Stopped):
        train(stopped)
    start = str(tmp_path / 'resumed' / 'iter_6.pth')
    text = train(run(tmp_path / 'resumed', scores[1:], resume=True, load_from=start))
    assert_same_state(tmp_path / 'plain', tmp_path / 'resumed')
    assert 'resumed at iteration 6' in text
    assert '0.75 best box mAP, epoch 3' in text
    charts = (tmp_path / 'resumed' / REPORT).read_text()
    assert charts.count('<circle') == 3, 'the scores of both runs'


def test_pages_draw_no_random_numbers(tmp_path: Path) -> None:
    runner = run(tmp_path, [0.25] * 3)
    hook = ReportHook([], [])
    runner._train_loop = runner.build_train_loop(runner._train_loop)
    runner._val_loop = runner.build_val_loop(runner._val_loop)
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    hook.before_train(runner)
    hook.after_val_epoch(runner)
    hook.after_train(runner)
    assert states == (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist())
    assert is_output(tmp_path / REPORT)


def test_a_file_of_the_user_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / REPORT).write_text('mine')
    with reported(runner := run(tmp_path, [0.25] * 3), [], []):
        runner.train()
    assert (tmp_path / REPORT).read_text() == 'mine'
    (log,) = tmp_path.glob('*/*.log')
    assert log.read_text().count('no report is written: ') == 1


@pytest.mark.skipif(os.geteuid() == 0, reason='root may write everywhere')
def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    runner = run(tmp_path, checkpoint={'interval': -1})
    tmp_path.chmod(0o500)
    with reported(runner, [], []):
        runner.train()
    assert not (tmp_path / REPORT).exists()


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / REPORT).mkdir()
    with reported(runner := run(tmp_path), [], []):
        runner.train()
    assert not [*(tmp_path / REPORT).iterdir()]


def test_the_words_of_the_options() -> None:
    words = [
        'x.py',
        '--lr',
        '0.5',
        '--ema',
        '--amp',
        '--image-size',
        '64',
        '96',
        '--cfg-options',
        'a=1',
        'b=2',
    ]
    parser = training_parser()
    given = given_options(parser, parser.parse_args([*words, '--resume', '--launcher', 'pytorch']))
    assert vars(parser.parse_args(['x.py', *given])) == vars(parser.parse_args(words))
    assert given_options(parser, parser.parse_args(['x.py'])) == []
