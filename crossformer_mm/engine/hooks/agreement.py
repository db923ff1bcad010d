"""What several processes of a training have to agree on beside the gradients."""

from typing import Any

import torch
from mmengine.dist import all_reduce_dict, all_reduce_params
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


class AgreementHook(Hook):
    """Gives each process the mean of the losses and of BN's running statistics, after each step.

    Without it, the log has the losses of the first process's images alone, each process validates with
    statistics of its own images, and the checkpoint holds those of the first. Training itself does not use
    the running statistics, so that agreeing on them more rarely would come to the same.
    """

    priority = 'HIGHEST'  # before the losses are logged; after FiniteLossHook, which is registered first

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: Any = None,
        outputs: dict[str, Any] | None = None,
    ) -> None:
        """Take the means.

        Args:
            runner: The run.
            batch_idx: The batch's number.
            data_batch: Unused.
            outputs: The losses by name, and what else the model logs; changed in place.
        """
        means = {name: value.detach().float() for name, value in outputs.items() if torch.is_tensor(value)}
        all_reduce_dict(means, op='mean')
        outputs.update(means)
        if statistics := running_statistics(runner.model):
            all_reduce_params(statistics, op='mean')


def running_statistics(model: nn.Module) -> list[Tensor]:
    """The means and variances that a model's BN layers collect.

    Args:
        model: The model in training; SyncBN agrees by itself, and frozen layers collect nothing.
    """
    layers = [
        layer
        for layer in model.modules()
        if isinstance(layer, _BatchNorm) and not isinstance(layer, nn.SyncBatchNorm)
    ]
    collecting = [layer for layer in layers if layer.training and layer.track_running_stats]
    return [tensor for layer in collecting for tensor in (layer.running_mean, layer.running_var)]
