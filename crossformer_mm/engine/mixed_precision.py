"""Training in bfloat16, on a GPU and on a CPU."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from mmengine.optim import OptimWrapper
from mmengine.runner.amp import autocast
from torch import nn

from ..compat import has_fast_bfloat16, tree_map

_HEAD = re.compile(r'(^|[._])head(\.\d+)?$')
_ROI_EXTRACTOR = re.compile(r'_roi_extractor(\.\d+)?$')


class BFloat16OptimWrapper(OptimWrapper):
    """Train under bfloat16 autocast, with weights, boxes and losses in float32.

    MMEngine's ``AmpOptimWrapper`` refuses to run on a CPU, scales losses, which bfloat16 with its range does
    not need, and leaves the heads' outputs in bfloat16: its 8 bits of mantissa locate a box in a 1333-pixel
    image to within 4 pixels, and MMCV's operators do not support it. Here the outputs of heads and the inputs
    of RoI extractors are float32.
    """

    def initialize_count_status(self, model: nn.Module, init_counts: int, max_counts: int) -> None:
        """Prepare the model; the runner calls this once before training.

        Args:
            model: The model to train.
            init_counts: The first iteration.
            max_counts: The last iteration.
        """
        super().initialize_count_status(model, init_counts, max_counts)
        keep_boxes_in_float32(model)

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        """Autocast around each forward pass."""
        with super().optim_context(model), autocast(dtype=torch.bfloat16):
            yield


def bfloat16_is_fast() -> bool:
    """Whether bfloat16 makes matrix products faster: on GPUs, and on CPUs with instructions for it.

    On other CPUs, a linear layer of stage 1 took seven times as long (x86-64 with only AVX2, one thread).
    """
    return torch.cuda.is_available() or has_fast_bfloat16()


def keep_boxes_in_float32(model: nn.Module) -> None:
    """Convert the outputs of a model's heads and the inputs of its RoI extractors to float32.

    Args:
        model: A detector, segmentor or classifier.
    """
    for name, module in model.named_modules():
        if _HEAD.search(name):
            module.register_forward_hook(_outputs_to_float32)
        elif _ROI_EXTRACTOR.search(name):
            module.register_forward_pre_hook(_inputs_to_float32)


def _float32(value: Any) -> Any:
    return value.float() if torch.is_tensor(value) and value.is_floating_point() else value


def _outputs_to_float32(module: nn.Module, inputs: tuple, outputs: Any) -> Any:
    return tree_map(_float32, outputs)


def _inputs_to_float32(module: nn.Module, inputs: tuple) -> tuple:
    return tree_map(_float32, inputs)
