"""Stop a training whose score no longer improves, at the same validation with and without a resume."""

import math

from mmengine.hooks import Hook
from mmengine.runner import EpochBasedTrainLoop, Runner

from ...utils.errors import UserError
from ...utils.text import shorten
from .checkpoint import AtomicCheckpointHook

STATE = 'early_stop'  # entry of the message hub, which checkpoints contain
MAIN_SCORES = ('coco/bbox_mAP', 'mIoU', 'accuracy/top1')  # of the tasks


class EarlyStopHook(Hook):
    """Stops a training after ``patience`` validations without a better score.

    Unlike MMEngine's ``EarlyStoppingHook``, it resumes: the best score and the validations since then are in
    the checkpoints. A checkpoint may have been written before the validation at its own iteration; a resume
    from there begins with this validation.

    Args:
        patience: The number of validations.
        score: Its name; ``'auto'`` is the first one of a validation. By default, the main score of the task:
            box mAP, mIoU or top-1 accuracy.
        rule: Whether ``'greater'`` or ``'less'`` is better.
    """

    priority = 'LOWEST'  # after the hook that saves the best checkpoint

    def __init__(self, patience: int, score: str | None = None, rule: str = 'greater') -> None:
        self.patience = patience
        self.score = score
        self.is_better = AtomicCheckpointHook.rule_map[rule]
        self.worst = AtomicCheckpointHook.init_value_map[rule]

    def before_train(self, runner: Runner) -> None:
        """Validate a resumed training first, if a validation follows where it resumes."""
        score = self.score or 'the main score'
        runner.logger.info(
            f'stops after validations without a better value of {score}: {self.patience} in a row'
        )
        if runner.iter and runner.train_loop.is_validated():
            runner.message_hub.update_info('iter', runner.iter - 1)  # as after the last iteration
            runner.val_loop.run()

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Count the validations without a better score, and stop the training.

        Args:
            runner: The run.
            metrics: The scores, by name.

        Raises:
            UserError: The score is not among them.
        """
        name = self.score_name(metrics or {})
        score = float(metrics[name])
        best, when, waited, seen = runner.message_hub.get_info(STATE, (self.worst, None, 0, -1))
        by_epoch = isinstance(runner.train_loop, EpochBasedTrainLoop)
        now = f'epoch {runner.epoch}' if by_epoch else f'iteration {runner.iter}'
        if seen != runner.iter:
            better = math.isfinite(score) and self.is_better(score, best)
            best, when, waited = (score, now, 0) if better else (best, when, waited + 1)
            runner.message_hub.update_info(STATE, [best, when, waited, runner.iter])
        if waited >= self.patience:
            runner.train_loop.stop_training = True
            save_last(runner)
            than = f'a better {name} than {best:.4f} at {when}' if when else f'a {name}'
            runner.logger.info(
                f'stopped after the validation at {now}: {waited} in a row without {than}; to train on,'
                ' resume with a greater --early-stop, or without it'
            )

    def score_name(self, metrics: dict[str, float]) -> str:
        """The name of the score that counts.

        Args:
            metrics: The scores of a validation, by name.

        Raises:
            UserError: It is not among them.
        """
        wanted = MAIN_SCORES if self.score is None else metrics if self.score == 'auto' else [self.score]
        for name in wanted:
            if name in metrics:
                return name
        raise UserError(
            f'--early-stop: the validation has no score {" or ".join(wanted)}, only {shorten(list(metrics))};'
            ' name one of these in default_hooks.checkpoint.save_best'
        )


def save_last(runner: Runner) -> None:
    """Save the checkpoint of the last iteration, if the run's interval has not done so.

    Args:
        runner: The run, after a validation.
    """
    for hook in runner.hooks:
        if isinstance(hook, AtomicCheckpointHook):
            hook.save_now(runner)
