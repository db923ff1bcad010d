"""Draw the loss and the validation scores of a training from the scalars that it logs."""

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from mmengine.dist import master_only
from mmengine.hooks import Hook
from mmengine.runner import Runner

from ...checkpoint.resume import RUNS
from ...evaluation.pictures import save_figure

Row = dict[str, Any]

CURVES = 'curves.png'
PERCENT = ('mIoU', 'mAcc', 'aAcc', 'top1', 'top5')  # the others range from 0 to 1
LINES = {  # by a score's name, without its evaluator's prefix: label and line style
    'bbox_mAP': ('box mAP', 'C0-'),
    'bbox_mAP_50': ('box mAP at IoU 0.5', 'C0:'),
    'segm_mAP': ('mask mAP', 'C1-'),
    'segm_mAP_50': ('mask mAP at IoU 0.5', 'C1:'),
    'mIoU': ('mIoU', 'C2-'),
    'mAcc': ('mean accuracy of the classes', 'C2:'),
    'aAcc': ('accuracy of all pixels', 'C7:'),
    'top1': ('top-1 accuracy', 'C4-'),
    'top5': ('top-5 accuracy', 'C4:'),
}
# Scores of single classes have longer names: coco/bbox_mAP/CLASS, IoU.CLASS.
_SCORE = re.compile(rf'(?:\w+/)?({"|".join(LINES)})')


class CurvesHook(Hook):
    """Draws ``curves.png`` into the work folder after each validation and at the end."""

    priority = 'VERY_LOW'  # after the hook that writes the log

    @master_only
    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Draw the training so far."""
        train, val = read_scalars(runner.work_dir, runner.message_hub.get_info(RUNS, []))
        if train:  # a short run may be validated before it logs its first loss
            plot_curves(Path(runner.work_dir, CURVES), train, val)

    def after_train(self, runner: Runner) -> None:
        """Draw the complete training."""
        self.after_val_epoch(runner)


def read_scalars(work_dir: str | Path, runs: Sequence[Sequence] = ()) -> tuple[list[Row], list[Row]]:
    """Read the logs of all runs in a work folder, merged into one training.

    A run that resumes an earlier one, or starts again, replaces earlier rows from its first step on.

    Args:
        work_dir: A work folder, with mmengine's ``*/vis_data/scalars.json``.
        runs: The runs of the training in their order, from :func:`~.checkpoint.resume.runs_of`. Other runs
            come before them, in the order in which they wrote last: the folders are named after local time.

    Returns:
        Training rows (``step`` counts iterations) and validation rows (``step`` counts epochs, or iterations
        in an iteration-based run), in order.
    """
    names = [name for name, _ in runs]

    def order(path: Path) -> tuple:
        place = [i for i, name in enumerate(names) if name.endswith(path.parts[-3])]
        return max(place, default=-1), path.stat().st_mtime_ns, path

    train: list[Row] = []
    val: list[Row] = []
    for path in sorted(Path(work_dir).glob('*/vis_data/scalars.json'), key=order):
        rows = list(_rows(path))
        trained = [row for row in rows if 'loss' in row]
        scored = [row for row in rows if scores_of(row)]
        if trained:
            train = [row for row in train if row['step'] < trained[0]['step']] + trained
        if trained or scored:
            starts = [row.get('epoch', row['step']) for row in trained[:1]] + [row['step'] for row in scored]
            val = [row for row in val if row['step'] < min(starts)] + scored
    return train, val


def _rows(path: Path) -> Iterator[Row]:
    """The rows of a log, without lines that a killed run or machine has left damaged."""
    for line in path.read_text(encoding='utf-8', errors='replace').splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict) and 'step' in row:
            yield row


def plot_curves(path: Path, train: list[Row], val: list[Row]) -> None:
    """Draw the losses and the validation scores of a training.

    Args:
        path: The PNG file.
        train: From :func:`read_scalars`, at least one row.
        val: From :func:`read_scalars`, possibly empty.
    """
    figure = Figure(figsize=(11, 4), layout='constrained')
    losses, scores = figure.subplots(1, 2)
    _draw_losses(losses, train)
    _draw_scores(scores, val, 'epoch' if 'epoch' in train[0] else 'iteration')
    save_figure(figure, path, 100)


def scores_of(row: Row) -> dict[str, float]:
    """The scores to draw, from 0 to 1, by their names without a prefix."""
    found = {match[1]: value for key, value in row.items() if (match := _SCORE.fullmatch(key))}
    return {key: score / 100 if key in PERCENT else score for key, score in found.items()}


def loss_parts(row: Row) -> dict[str, str]:
    """The losses that are added, such as loss_cls or decode.loss_ce, by name, with their labels."""
    keys = (key for key in row if key.split('.')[-1].startswith('loss_'))
    return {key: key.replace('loss_', '', 1) for key in keys}


def _draw_losses(axes: Axes, rows: list[Row]) -> None:
    steps = [row['step'] for row in rows]
    parts = loss_parts(rows[0])
    for key, label in parts.items():
        axes.plot(steps, [row.get(key) for row in rows], linewidth=1, label=label)
    axes.plot(steps, [row['loss'] for row in rows], 'k-', label='sum' if parts else 'loss')
    axes.set(title='Training loss', xlabel='iteration', ylim=(0, None))
    axes.grid(alpha=0.3)
    axes.legend()


def _draw_scores(axes: Axes, rows: list[Row], unit: str) -> None:
    for key, (name, style) in LINES.items():
        points = [(row['step'], scores_of(row)[key]) for row in rows if key in scores_of(row)]
        if points:
            label = f'{name}: {points[-1][1]:.3f}'
            axes.plot(*zip(*points, strict=True), style, marker='.', label=label)
    axes.set(title='Validation', xlabel=unit, ylim=(0, 1))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)
    if rows:
        axes.legend(loc='lower right')
