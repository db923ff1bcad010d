"""Stop a training whose loss has become NaN or infinite."""

import math
from typing import Any

import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner

from ...utils.errors import UserError
from ...utils.text import shorten

# A resumed run takes the learning rate from the checkpoint's optimizer state.
RESTART_HINT = (
    'resume with gradient clipping (--resume --clip-grad 1), or start from the weights with a lower learning'
    ' rate (--load FILE --cfg-options optim_wrapper.optimizer.lr=LR)'
)


class FiniteLossHook(Hook):
    """Stops the run when a loss has been NaN or infinite for ``patience`` steps in a row.

    Args:
        patience: The number of steps. The first such loss usually makes the weights NaN, and so all later
            losses. With float16 it does not, since the loss scaler skips updates that overflow.
    """

    priority = 'HIGHEST'  # before the hooks that save checkpoints, log, and average over processes

    def __init__(self, patience: int = 1) -> None:
        self.patience = patience
        self._in_a_row = 0

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: dict[str, Any] | None = None,
        outputs: dict[str, Any] | None = None,
    ) -> None:
        """Check the losses of the step.

        Args:
            runner: The run.
            batch_idx: The batch's index.
            data_batch: Its images and their annotations.
            outputs: The losses and other logged values, by name.

        Raises:
            UserError: The run stops; the message names the losses and the images.
        """
        bad = not_finite_losses(outputs or {})
        self._in_a_row = self._in_a_row + 1 if bad else 0
        if not bad:
            return
        text = (
            f'iteration {runner.iter + 1}: {", ".join(f"{name} is {value}" for name, value in bad.items())},'
            f' in a batch of the images {shorten(image_paths(data_batch)) or "(paths unknown)"}'
        )
        if self._in_a_row < self.patience:
            runner.logger.warning(text)
            return
        raise UserError(
            f'{text}; stopped without changing the checkpoints: check these images and their annotations,'
            f' then {RESTART_HINT}'
        )


def not_finite_losses(outputs: dict[str, Any]) -> dict[str, float]:
    """The losses of a step that are NaN or infinite.

    Args:
        outputs: The logged values of a step, by name.

    Returns:
        Their values by name; the total loss only if no other is affected.
    """
    losses = {name: torch.as_tensor(value).item() for name, value in outputs.items() if 'loss' in name}
    bad = {name: value for name, value in losses.items() if not math.isfinite(value)}
    return {name: value for name, value in bad.items() if name != 'loss'} or bad


def image_paths(batch: Any) -> list[str]:
    """The paths of a batch's images, where the data contains them.

    Args:
        batch: As packed by MMDetection's and MMSegmentation's pipelines.
    """
    samples = batch.get('data_samples', []) if isinstance(batch, dict) else []
    return [path for sample in samples if (path := sample.get('img_path'))]
