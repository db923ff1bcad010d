"""The curves of a training: reading mmengine's logs, and drawing them."""

import json
from pathlib import Path
from typing import Any

import cv2
import pytest
from matplotlib.figure import Figure
from mmengine.evaluator import BaseMetric, Evaluator
from small_runs import Noisy, small_run
from torch.utils.data import DataLoader

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


def test_a_new_run_in_an_old_folder_stands_alone(tmp_path: Path) -> None:
    write_run(tmp_path, '20260101_000000', FIRST)
    second = [train_row(1, 5, 9.0), val_row(1, 0.9)]
    write_run(tmp_path, '20260102_000000', second)
    assert read_scalars(tmp_path) == (second[:1], second[1:])


def test_a_half_line_of_a_killed_run_is_left_out(tmp_path: Path) -> None:
    path = write_run(tmp_path, '20260101_000000', FIRST)
    path.write_text(path.read_text() + '{"loss": 1.')
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
    row = {'mIoU': 81.5, 'coco/bbox_mAP': 0.4, 'step': 5, 'IoU.sky': 90.0}
    plot_curves(tmp_path / 'curves.png', [{'loss': 1.0, 'step': 5}], [row])
    box_map, miou = drawn[0].axes[1].lines
    assert (box_map.get_ydata()[0], miou.get_ydata()[0]) == (0.4, 0.815)


class Score(BaseMetric):
    """A metric with a name that is drawn."""

    default_prefix = 'coco'

    def process(self, data_batch: Any, data_samples: Any) -> None:
        """Record only that there was a batch."""
        self.results.append(1)

    def compute_metrics(self, results: list[int]) -> dict[str, float]:
        """A score that does not change."""
        return {'bbox_mAP': 0.25}


def test_the_hook_draws_while_training(tmp_path: Path) -> None:
    val = {
        'val_dataloader': DataLoader(Noisy()),
        'val_cfg': {},
        'val_evaluator': Evaluator(Score()),
    }
    small_run(tmp_path, custom_hooks=[{'type': 'CurvesHook'}], default_scope='mmengine', **val).train()
    train, val = read_scalars(tmp_path)
    assert train
    assert [row['coco/bbox_mAP'] for row in val] == [0.25] * 3
    assert (tmp_path / 'curves.png').is_file()
