"""The length of a training, and schedules in proportion to it."""

import argparse
import copy
from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Any

from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.runner import Runner

from ..data.datasets import dicts_in
from ..utils.errors import UserError

WARM_UP = 0.1  # the largest part of a training whose length an option sets
_TIMES = ('begin', 'end', 'T_max', 'step_size', 'total_iters', 'period', 'total_steps')  # of MMEngine's
_HOOK_TIMES = {  # of MMEngine's and the toolboxes' hooks, by the unit that they count
    'epochs': ('switch_epoch', 'num_last_epochs', 'begin_epoch', 'action_epoch'),
    'iters': ('begin_iter',),
}


def add_length_options(parser: argparse.ArgumentParser) -> None:
    """Add ``--epochs`` and ``--iters``."""
    length = parser.add_mutually_exclusive_group()
    about = 'the length of the training: steps and warm-up of the learning rate change in proportion'
    length.add_argument('--epochs', type=int, metavar='N', help=f'{about} (detection and classification)')
    length.add_argument('--iters', type=int, metavar='N', help='the same in iterations (segmentation)')


def set_length(cfg: Config, epochs: int | None, iters: int | None, cfg_options: Sequence[str] = ()) -> None:
    """Change the length of a training, and all that is counted in its unit, in proportion.

    Args:
        cfg: The config, changed in place.
        epochs: The number of epochs; None keeps the config's length.
        iters: The number of iterations.
        cfg_options: The options with which the user has changed the config, whose settings stay.

    Raises:
        UserError: The number is invalid, two changes of recipe would be in the same epoch, or the config
            counts in the other unit.
    """
    unit, count = ('iters', iters) if epochs is None else ('epochs', epochs)
    if count is None:
        return
    if count < 1:
        raise UserError(f'--{unit} {count}: must be at least 1')
    before = cfg.train_cfg.get(f'max_{unit}')
    if before is None:
        other = 'epochs' if unit == 'iters' else 'iters'
        raise UserError(f'--{unit} {count}: this config counts its training in {other}; give --{other} N')
    ratio = count / before
    cfg.train_cfg[f'max_{unit}'] = count
    stated = {option.partition('=')[0] for option in cfg_options}
    checkpoint = cfg.get('default_hooks', {}).get('checkpoint') or {}
    for place, part in (('train_cfg', cfg.train_cfg), ('default_hooks.checkpoint', checkpoint)):
        for name in ('val_interval', 'interval', 'val_begin', 'save_begin'):
            counted = name in part and part.get('by_epoch', unit == 'epochs') == (unit == 'epochs')
            if not counted or f'{place}.{name}' in stated:
                continue
            if name.endswith('interval'):
                part[name] = _interval(part[name], ratio, count)
            elif part[name] > 1:  # else from the start
                never = part[name] > before
                part[name] = max(round(part[name] * ratio), count + 1 if never else 1)
    _move_switches(cfg, unit, ratio, count, stated)
    for i, scheduler in enumerate(schedules(cfg.get('param_scheduler'))):
        if scheduler.get('by_epoch', True) == (unit == 'epochs'):
            kept = {name: scheduler[name] for name in scheduler if f'param_scheduler.{i}.{name}' in stated}
            _stretch(scheduler, ratio)
            scheduler.update(kept)
    cfg.longest_warm_up = WARM_UP  # in iterations, it can only be shortened once the images are counted


def _move_switches(cfg: Config, unit: str, ratio: float, count: int, stated: set[str]) -> None:
    """Move the times from which another interval of validation is used, or a hook does its part."""
    if 'dynamic_intervals' in cfg.train_cfg and 'train_cfg.dynamic_intervals' not in stated:
        cfg.train_cfg.dynamic_intervals = [
            (round(time * ratio), _interval(interval, ratio, count))
            for time, interval in cfg.train_cfg.dynamic_intervals
        ]
    actions = []
    for place, part in dicts_in(cfg.get('custom_hooks')):
        for name in _HOOK_TIMES[unit]:
            if name in part and f'custom_hooks{place}.{name}' not in stated:
                least = 1 if name == 'action_epoch' else 0  # the hook of these counts epochs from 1
                part[name] = max(round(part[name] * ratio), least)
        if 'action_epoch' in part:
            actions.append((place.rpartition('.')[0], part.action_epoch))
    for place, epoch in actions:
        if actions.count((place, epoch)) > 1:
            raise UserError(
                f'--{unit} {count}: two steps of custom_hooks{place} would be in epoch {epoch}; train longer,'
                ' or remove one of them'
            )


def _interval(old: int, ratio: float, count: int) -> int:
    """An interval of validation or of checkpoints: in proportion in a shorter training, else as it was."""
    return min(max(round(old * ratio), 1), old, count)


def schedules(setting: Any) -> list[dict[str, Any]]:
    """The schedules in ``param_scheduler``, which may be one, several or none."""
    return [setting] if isinstance(setting, dict) else list(setting or ())


def _stretch(scheduler: dict[str, Any], ratio: float) -> None:
    """Stretch a schedule; fractions of epochs are possible if MMEngine converts it to iterations."""
    fractions = scheduler.get('convert_to_iter_based', False)
    for name in _TIMES:
        if scheduler.get(name):
            time = scheduler[name] * ratio
            least = 2 if name == 'begin' or _rises(scheduler) else 1  # a warm-up of fewer would have no end
            scheduler[name] = time if fractions else max(_rounded(time), least)
    if scheduler.get('end') and not fractions:
        scheduler['end'] = max(scheduler['end'], scheduler.get('begin', 0) + 1)
    if 'milestones' in scheduler:
        steps = (max(round(step * ratio), 1) for step in scheduler['milestones'])
        scheduler['milestones'] = sorted(set(steps))
    if 'periods' in scheduler:
        ends = [ratio * end for end in accumulate(scheduler['periods'], initial=0)]
        if not fractions:
            ends = [_rounded(end) for end in ends]
        scheduler['periods'] = [(end - start) or 1 for start, end in pairwise(ends)]


def _rounded(time: float) -> int:
    """The nearest integer; halves are rounded up, so that no cycle ends too early."""
    return int(time + 0.5)


def shorten_warm_up(schedulers: Sequence[dict[str, Any]], most: int, epoch: int) -> str | None:
    """Shorten a warm-up, and let what follows begin there.

    Args:
        schedulers: The settings, changed in place: those that count fractions of epochs count iterations.
        most: The most iterations that it may take, at least 2.
        epoch: The iterations of an epoch.

    Returns:
        A line for the log if the warm-up was shortened.
    """
    for scheduler in schedulers:
        if scheduler.pop('convert_to_iter_based', False):
            _count_iterations(scheduler, epoch)
    for scheduler in filter(_rises, schedulers):
        old = scheduler.get('end') or 0
        if not scheduler.get('by_epoch', True) and old > most:
            scheduler['end'] = most
            for other in schedulers:
                if other.get('begin') == old and not other.get('by_epoch', True):
                    _begin(other, most)
            return f'the warm-up takes {most} iterations instead of {old}'
    return None


def _count_iterations(scheduler: dict[str, Any], epoch: int) -> None:
    """Convert a schedule from epochs to iterations; a warm-up of fewer than 2 would have no end."""
    scheduler['by_epoch'] = False
    for name in _TIMES:
        if scheduler.get(name):
            scheduler[name] = max(_rounded(scheduler[name] * epoch), 2)
    if 'milestones' in scheduler:
        scheduler['milestones'] = [step * epoch for step in scheduler['milestones']]
    if 'periods' in scheduler:
        scheduler['periods'] = [max(_rounded(period * epoch), 1) for period in scheduler['periods']]


def _begin(scheduler: dict[str, Any], start: int) -> None:
    """Let a schedule begin earlier, and end when it did."""
    more = scheduler['begin'] - start
    for name in ('T_max', 'total_steps'):
        if scheduler.get(name):
            scheduler[name] += more
    if 'periods' in scheduler:
        *others, last = scheduler['periods']
        scheduler['periods'] = [*others, last + more]
    scheduler['begin'] = start


def _rises(scheduler: dict[str, Any]) -> bool:
    """Whether a schedule is a warm-up."""
    rising = scheduler.get('start_factor', 1 / 3) < scheduler.get('end_factor', 1)
    return scheduler['type'] == 'LinearLR' and rising


def fit_warm_up(runner: Runner) -> None:
    """Shorten the warm-up of a training to the part of it that ``longest_warm_up`` allows, if it is set.

    Args:
        runner: The run, before it trains.
    """
    settings = schedules(copy.deepcopy(runner.param_schedulers))
    if settings and (part := runner.cfg.get('longest_warm_up')):
        epoch = len(runner.train_loop.dataloader)
        if line := shorten_warm_up(settings, max(int(runner.max_iters * part), 2), epoch):
            runner.logger.info(line)
        runner.param_schedulers = settings
    runner.register_hook(ScheduleHook(settings))


class ScheduleHook(Hook):
    """Warns of settings that are longer than the run, once its length in iterations is known.

    Args:
        settings: The settings of the schedules.
    """

    def __init__(self, settings: Sequence[dict[str, Any]]) -> None:
        self.settings = settings

    def before_train(self, runner: Runner) -> None:
        """Log the warnings."""
        epoch = len(runner.train_dataloader)
        interval = (runner.cfg.get('default_hooks', {}).get('logger') or {}).get('interval', 10)
        for warning in length_warnings(self.settings, interval, runner.max_iters, epoch):
            runner.logger.warning(warning)


def length_warnings(settings: Sequence[dict[str, Any]], interval: int, steps: int, epoch: int) -> list[str]:
    """Warnings about a warm-up and a log interval that are longer than the run.

    Args:
        settings: The settings of the schedules.
        interval: The iterations between two lines of the log.
        steps: The iterations of the run.
        epoch: The iterations of an epoch.
    """
    warnings = []
    for index, scheduler in enumerate(settings):
        warm_up = (scheduler.get('end') or 0) * (epoch if scheduler.get('by_epoch', True) else 1)
        if _rises(scheduler) and warm_up >= steps:
            warnings.append(
                f'the warm-up of {warm_up} iterations is not shorter than this run of {steps}: the learning'
                " rate stays below the config's; train longer (train_cfg), or warm up for less (--cfg-options"
                f' param_scheduler.{index}.end=N)'
            )
    if interval > steps and epoch > steps:  # otherwise the end of an epoch is logged
        warnings.append(
            f'default_hooks.logger.interval={interval}: this run of {steps} iterations logs no loss'
        )
    return warnings
