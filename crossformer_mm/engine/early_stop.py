"""Early stopping, as an option of a training."""

import argparse
from collections.abc import Mapping
from typing import Any

from mmengine.config import Config
from mmengine.hooks import CheckpointHook

from ..utils.errors import UserError


def add_stop_option(parser: argparse.ArgumentParser) -> None:
    """Add ``--early-stop``."""
    parser.add_argument(
        '--early-stop',
        type=int,
        metavar='N',
        help='stop after N validations without a better score, the one that decides on the best checkpoint,'
        ' or else box mAP, mIoU or top-1 accuracy; a resumed training may have another N',
    )


def best_score(checkpoint: Mapping[str, Any]) -> tuple[str, str]:
    """The score by which the best checkpoint is chosen, the first of several.

    Args:
        checkpoint: The settings of the checkpoint hook, with ``save_best``.

    Returns:
        Its name, or ``'auto'``; and whether ``'greater'`` or ``'less'`` is better.

    Raises:
        ValueError, KeyError, AssertionError: MMEngine's, if the settings do not tell.
    """
    settings = {name: checkpoint.get(name) for name in ('save_best', 'rule', 'greater_keys', 'less_keys')}
    hook = CheckpointHook(**settings)
    return hook.key_indicators[0], hook.rules[0] or 'greater'


def set_early_stop(cfg: Config, patience: int) -> None:
    """Stop a training whose validations show no better score.

    The score is the one of the checkpoint hook's ``save_best``, the first of several, with its rule.

    Args:
        cfg: The config, changed in place.
        patience: The number of validations.

    Raises:
        UserError: The number is below 1, there is no validation, the config stops early in its own way, or
            it does not say which scores are better.
    """
    given = f'--early-stop {patience}'
    if patience < 1:
        raise UserError(f'{given}: must be at least 1')
    if not cfg.get('val_dataloader'):
        raise UserError(
            f'{given}: needs a validation set; leave out --no-val, or add val_dataloader to the config'
        )
    if any(
        str(hook.get('type')).endswith(('EarlyStoppingHook', 'EarlyStopHook')) for hook in cfg.custom_hooks
    ):
        raise UserError(f'{given}: the config stops early already; leave the option out')
    if not str(cfg.train_cfg.type).startswith('Resumable'):
        raise UserError(f'{given}: the config has its own training loop, {cfg.train_cfg.type}; set it there')
    checkpoint = cfg.default_hooks.get('checkpoint') or {}
    hook = {'type': 'EarlyStopHook', 'patience': patience}
    if best := checkpoint.get('save_best'):
        try:
            score, rule = best_score(checkpoint)
        except (ValueError, KeyError, AssertionError) as error:
            raise UserError(
                f'{given}: default_hooks.checkpoint.save_best={best} with rule={checkpoint.get("rule")} does'
                ' not say which scores are better; set default_hooks.checkpoint.rule to greater or less'
            ) from error
        hook.update(score=score, rule=rule)
    cfg.custom_hooks = [*cfg.custom_hooks, hook]
