"""The curves of a training run: its losses and validation scores, from the scalars that it logs."""

import json
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from mmengine.dist import master_only
from mmengine.hooks import Hook
from mmengine.runner import Runner

from ...utils.errors import UserError

Row = dict[str, Any]

PERCENT = ('mIoU', 'mAcc', 'aAcc')  # MMSegmentation's scores, of 100; the others are of 1
LINES = {  # a score's ending: name in the legend, line style
    'bbox_mAP': ('box mAP', 'C0-'),
    'bbox_mAP_50': ('box mAP at IoU 0.5', 'C0:'),
    'segm_mAP': ('mask mAP', 'C1-'),
    'segm_mAP_50': ('mask mAP at IoU 0.5', 'C1:'),
    'mIoU': ('mIoU', 'C2-'),
    'mAcc': ('mean accuracy of a class', 'C2:'),
    'aAcc': ('accuracy of all pixels', 'C7:'),
}


def read_scalars(work_dir: str | Path) -> tuple[list[Row], list[Row]]:
    """Read what the runs in a work folder logged, as the story of one training.

    A run that resumes an earlier one, or begins anew, takes the place of what was logged from its
    first step on.

    Args:
        work_dir: A run's ``--work-dir``, with mmengine's ``*/vis_data/scalars.json`` in it.

    Returns:
        Training rows (``step`` in iterations) and validation rows (``step`` in epochs, or in
        iterations where the run counts those), in order.
    """
    train: list[Row] = []
    val: list[Row] = []
    for path in sorted(Path(work_dir).glob('*/vis_data/scalars.json')):
        lines = path.read_text(encoding='utf-8').splitlines(keepends=True)
        # A killed run leaves half a line, without the newline.
        rows = [json.loads(line) for line in lines if line.endswith('\n')]
        trained = [row for row in rows if 'loss' in row]
        if trained:
            start = trained[0]
            train = [row for row in train if row['step'] < start['step']]
            val = [row for row in val if row['step'] < start.get('epoch', start['step'])]
            train += trained
            val += [row for row in rows if _scores(row)]
    return train, val


def plot_curves(work_dir: str | Path) -> Path:
    """Draw the losses and the validation scores of a training run.

    Args:
        work_dir: The run's ``--work-dir``.

    Returns:
        The picture, ``curves.png`` in that folder.

    Raises:
        UserError: No training has been logged there.
    """
    train, val = read_scalars(work_dir)
    if not train:
        raise UserError(f'{work_dir}: no logged training there (no */vis_data/scalars.json with a loss)')
    return _draw(Path(work_dir), train, val)


def _draw(work_dir: Path, train: list[Row], val: list[Row]) -> Path:
    figure = Figure(figsize=(11, 4), layout='constrained')
    losses, scores = figure.subplots(1, 2)
    _draw_losses(losses, train)
    _draw_scores(scores, val, 'epoch' if 'epoch' in train[0] else 'iteration')
    path = work_dir / 'curves.png'
    figure.savefig(path, dpi=100)
    return path


def _scores(row: Row) -> dict[str, float]:
    """The scores that are drawn, 0 to 1, by their ending (``coco/bbox_mAP`` ends in ``bbox_mAP``)."""
    found = {key.split('/')[-1]: row[key] for key in row if key.split('/')[-1] in LINES}
    return {key: score / 100 if key in PERCENT else score for key, score in found.items()}


def _draw_losses(axes: Axes, rows: list[Row]) -> None:
    steps = [row['step'] for row in rows]
    # detectors log loss_cls, segmentors decode.loss_ce
    for key in (key for key in rows[0] if key.split('.')[-1].startswith('loss_')):
        label = key.replace('loss_', '', 1)
        axes.plot(steps, [row.get(key) for row in rows], linewidth=1, label=label)
    axes.plot(steps, [row['loss'] for row in rows], 'k-', label='sum')
    axes.set(title='Training loss', xlabel='iteration', ylim=(0, None))
    axes.grid(alpha=0.3)
    axes.legend()


def _draw_scores(axes: Axes, rows: list[Row], unit: str) -> None:
    for key, (name, style) in LINES.items():
        drawn = [(row['step'], _scores(row)[key]) for row in rows if key in _scores(row)]
        if drawn:
            label = f'{name}: {drawn[-1][1]:.3f}'
            axes.plot(*zip(*drawn, strict=True), style, marker='.', label=label)
    axes.set(title='Validation', xlabel=unit, ylim=(0, 1))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)
    if rows:
        axes.legend(loc='lower right')


class CurvesHook(Hook):
    """Draws ``curves.png`` into the work folder after each validation and at the end."""

    priority = 'VERY_LOW'  # after the logger's hook, which writes what is drawn

    @master_only
    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Draw the run so far."""
        train, val = read_scalars(runner.work_dir)
        if train:  # a short run may be validated before its first loss is logged
            _draw(Path(runner.work_dir), train, val)

    def after_train(self, runner: Runner) -> None:
        """Draw the whole run."""
        self.after_val_epoch(runner)
