"""The curves of a training: reading mmengine's logs, and drawing them."""

import json
import os
import time
from pathlib import Path
from typing import Any

import cv2
import pytest
from matplotlib.figure import Figure
from mmengine.evaluator import BaseMetric, Evaluator
from small_runs import Noisy, StopHook, Stopped, small_run
from torch.utils.data import DataLoader

from crossformer_mm.engine.hooks import curves
from crossformer_mm.engine.hooks.curves import plot_curves, read_scalars


def write_run(work_dir: Path, name: str, rows: list[dict[str, Any]]) -> Path:
    path = work_dir / name / 'vis_data' / 'scalars.json'
    path.parent.mkdir(parents=True)
    path.write_text(''.join(json.dumps(row) + '\n' for row in rows))
    return path


def train_row(epoch: int, step: int, loss: float) -> dict[str, Any]:
    return {'lr': 1e-4, 'loss': loss, 'loss_cls': loss / 2, 'epoch': epoch, 'iter': step, 'step': step}


def val_row(epoch: int, score: float) -> dict[str, Any]:
    return {'coco/bbox_mAP': score, 'coco/segm_mAP': score / 2, 'time': 0.1, 'step': epoch}


FIRST = [train_row(1, 5, 3.0), val_row(1, 0.1), train_row(2, 10, 2.0), val_row(2, 0.2)]


def test_one_run_is_read_in_order(tmp_path: Path) -> None:
    write_run(tmp_path, '20260101_000000', FIRST)
    assert read_scalars(tmp_path) == (FIRST[::2], FIRST[1::2])


def test_a_resumed_run_goes_on_where_it_resumed(tmp_path: Path) -> None:
    write_run(tmp_path, '20260101_000000', FIRST)
    second = [train_row(2, 10, 1.5), val_row(2, 0.3), train_row(3, 15, 1.0), val_row(3, 0.4)]
    write_run(tmp_path, '20260102_000000', second)
    train, val = read_scalars(tmp_path)
    assert [row['loss'] for row in train] == [3.0, 1.5, 1.0]
    assert [row['coco/bbox_mAP'] for row in val] == [0.1, 0.3, 0.4]


SECOND = [train_row(3, 15, 1.0), val_row(3, 0.3)]
THIRD = [train_row(4, 20, 0.5), val_row(4, 0.4)]


@pytest.mark.parametrize('age', [1, -1])
def test_runs_are_in_order_whatever_the_clocks_say(tmp_path: Path, age: int) -> None:
    """Neither the names, from machines in several time zones, nor the times of the files are in order."""
    names = ['20260103_000000', '20260102_000000', '20260101_000000']
    paths = [write_run(tmp_path, *run) for run in zip(names, (FIRST, SECOND, THIRD), strict=True)]
    for hours, path in enumerate(paths):
        os.utime(path, (1e9, 1e9 + age * 3600 * hours))
    runs = [[f'config_{name}', step] for name, step in zip(names, (0, 10, 15), strict=True)]
    train, val = read_scalars(tmp_path, runs)
    assert [row['step'] for row in train] == [5, 10, 15, 20]
    assert [row['step'] for row in val] == [1, 2, 3, 4]
    if age > 0:
        assert read_scalars(tmp_path) == (train, val)


def test_a_run_that_went_on_from_an_earlier_checkpoint(tmp_path: Path) -> None:
    """The other run that did, whose checkpoints are still there, is not its own."""
    write_run(tmp_path, '20260101_000000', FIRST)
    write_run(tmp_path, '20260104_000000', [*SECOND, *THIRD])
    write_run(tmp_path, '20260102_000000', [train_row(2, 9, 7.0)])
    train, _ = read_scalars(tmp_path, [['a_20260101_000000', 0], ['a_20260102_000000', 8]])
    assert [(row['step'], row['loss']) for row in train] == [(5, 3.0), (9, 7.0)]


def test_a_new_run_in_an_old_folder_stands_alone(tmp_path: Path) -> None:
    write_run(tmp_path, '20260101_000000', FIRST)
    second = [train_row(1, 5, 9.0), val_row(1, 0.9)]
    write_run(tmp_path, '20260102_000000', second)
    assert read_scalars(tmp_path) == (second[:1], second[1:])


def test_damaged_lines_of_a_killed_run_are_left_out(tmp_path: Path) -> None:
    path = write_run(tmp_path, '20260101_000000', FIRST)
    path.write_text('\0\0\0\n[]\n{"loss": 1}\n' + path.read_text() + '{"loss": 1.')
    assert read_scalars(tmp_path) == (FIRST[::2], FIRST[1::2])


def test_runs_counted_in_iterations(tmp_path: Path) -> None:
    rows = [
        {'loss': 2.0, 'step': 10},
        {'coco/bbox_mAP': 0.5, 'step': 10},
        {'loss': 1.0, 'step': 20},
    ]
    write_run(tmp_path, '20260101_000000', rows)
    write_run(tmp_path, '20260102_000000', [{'loss': 0.5, 'step': 11}])
    train, val = read_scalars(tmp_path)
    assert [row['loss'] for row in train] == [2.0, 0.5]
    assert [row['step'] for row in val] == [10]


def test_a_run_that_validates_before_it_logs_a_loss(tmp_path: Path) -> None:
    """It is short, or one that stops at once when it is resumed."""
    write_run(tmp_path, '20260101_000000', [val_row(10, 0.1), val_row(20, 0.2)])
    assert read_scalars(tmp_path) == ([], [val_row(10, 0.1), val_row(20, 0.2)])
    write_run(tmp_path, '20260102_000000', [val_row(20, 0.3)])
    assert read_scalars(tmp_path) == ([], [val_row(10, 0.1), val_row(20, 0.3)])


@pytest.mark.parametrize(
    'rows', [FIRST, FIRST[::2], [{'decode.loss_ce': 1.0, 'loss': 1.5, 'step': 5}, {'mIoU': 40.0, 'step': 5}]]
)
def test_losses_and_scores_are_drawn(tmp_path: Path, rows: list[dict[str, Any]]) -> None:
    write_run(tmp_path, '20260101_000000', rows)
    plot_curves(tmp_path / 'curves.png', *read_scalars(tmp_path))
    picture = cv2.imread(str(tmp_path / 'curves.png'))
    assert picture.shape == (400, 1100, 3)
    orange = (abs(picture.astype(int) - (14, 127, 255)).sum(-1) < 30)[:, 550:].sum()
    assert (orange > 50) == (rows is FIRST), 'the mask mAP'


def test_percentages_and_shares_have_one_axis(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    drawn: list[Figure] = []
    monkeypatch.setattr(Figure, 'savefig', lambda figure, *_, **__: drawn.append(figure))
    row = {'mIoU': 81.5, 'coco/bbox_mAP': 0.4, 'step': 5, 'IoU.sky': 90.0, 'accuracy/top5': 70.0}
    plot_curves(tmp_path / 'curves.png', [{'loss': 1.0, 'step': 5}], [row])
    scores = [line.get_ydata()[0] for line in drawn[0].axes[1].lines]
    assert scores == pytest.approx([0.4, 0.815, 0.7])


@pytest.mark.parametrize(
    'key',
    [
        *('coco/bbox_mAP/bbox_mAP', 'coco/bbox_mAP/a/segm_mAP', 'IoU.a/mIoU', 'coco/bbox_mAP_precision'),
        'single-label/recall/top1',
    ],
)
def test_classes_with_the_names_of_scores_are_not_drawn(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, key: str
) -> None:
    drawn: list[Figure] = []
    monkeypatch.setattr(Figure, 'savefig', lambda figure, *_, **__: drawn.append(figure))
    row = {'coco/bbox_mAP': 0.4, key: 0.9, 'step': 5}
    plot_curves(tmp_path / 'curves.png', [{'loss': 1.0, 'step': 5}], [row])
    (line,) = drawn[0].axes[1].lines
    assert line.get_ydata()[0] == 0.4


class Score(BaseMetric):
    """A metric with a name that is drawn."""

    default_prefix = 'coco'

    def process(self, data_batch: Any, data_samples: Any) -> None:
        """Record only that there was a batch."""
        self.results.append(1)

    def compute_metrics(self, results: list[int]) -> dict[str, float]:
        """A score that does not change."""
        return {'bbox_mAP': 0.25}


def test_the_hook_draws_while_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also after a resume by a machine in another time zone, with an earlier clock."""
    val = {'val_dataloader': DataLoader(Noisy()), 'val_cfg': {}, 'val_evaluator': Evaluator(Score())}
    settings = {**val, 'custom_hooks': [{'type': 'CurvesHook'}], 'default_scope': 'mmengine'}
    stopped = small_run(tmp_path, checkpoint={'interval': 8}, **settings)
    stopped.register_hook(StopHook(9))
    with pytest.raises(Stopped):
        stopped.train()
    assert (tmp_path / 'curves.png').is_file()
    os.utime(tmp_path / stopped.timestamp / 'vis_data' / 'scalars.json', (4e9, 4e9))

    drawn: list[tuple] = []
    monkeypatch.setattr(curves, 'plot_curves', lambda path, *rows: drawn.append(rows))
    monkeypatch.setenv('TZ', 'UTC+8')
    time.tzset()
    resumed = small_run(tmp_path, resume=True, load_from=str(tmp_path / 'iter_8.pth'), **settings)
    resumed.train()
    monkeypatch.undo()
    time.tzset()
    assert resumed.timestamp < stopped.timestamp
    train, scores = drawn[-1]
    assert [row['step'] for row in scores] == [1, 2, 3]
    assert [row['coco/bbox_mAP'] for row in scores] == [0.25] * 3
    assert train[-1]['step'] > 8
