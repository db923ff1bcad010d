"""Average losses and BN's running statistics over the processes of a distributed training."""

from typing import Any

import torch
from mmengine.dist import all_reduce_dict, all_reduce_params
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import Tensor, nn

BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


class AgreementHook(Hook):
    """Averages the losses and BN's running statistics over all processes, after each step.

    Without it, the log has only the losses of the first process's images, each process validates with
    statistics of its own images, and the checkpoint holds those of the first process. Training itself does
    not use the running statistics.
    """

    priority = 'HIGHEST'  # before the losses are logged; after FiniteLossHook, which is registered first

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: Any = None,
        outputs: dict[str, Any] | None = None,
    ) -> None:
        """Average the losses and statistics.

        Args:
            runner: The run.
            batch_idx: The batch's index.
            data_batch: Unused.
            outputs: The losses and other logged values, by name; changed in place.
        """
        means = {name: value.detach().float() for name, value in outputs.items() if torch.is_tensor(value)}
        all_reduce_dict(means, op='mean')
        outputs.update(means)
        if statistics := running_statistics(runner.model):
            all_reduce_params(statistics, op='mean')


def running_statistics(model: nn.Module) -> list[Tensor]:
    """The running means and variances of a model's BN layers in training mode.

    Args:
        model: The model. Its SyncBN layers, which average over processes themselves, are left out.
    """
    layers = [layer for layer in model.modules() if isinstance(layer, BATCH_NORMS)]
    collecting = [layer for layer in layers if layer.training and layer.track_running_stats]
    return [tensor for layer in collecting for tensor in (layer.running_mean, layer.running_var)]
