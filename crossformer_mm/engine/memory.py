"""Advice for running out of memory, the cheapest remedy first."""

import torch
from mmengine.config import Config

from ..data.image_size import smaller_side


def memory_advice(cfg: Config, error: BaseException) -> str:
    """Describe the error and the remedies in one line.

    Args:
        cfg: The config of the run; remedies that it already uses are left out.
        error: The error.

    Returns:
        The line, with the options of ``crossformer train``, best first.
    """
    loader, wrapper = cfg.train_dataloader, cfg.optim_wrapper
    size, counts = loader.batch_size, wrapper.get('accumulative_counts', 1)
    advice = []
    if size > 1:
        largest = ', or the largest that fit: --batch-size auto' if torch.cuda.is_available() else ''
        advice.append(f'smaller batches: --batch-size {size // 2}{largest}')
    if not cfg.model.backbone.get('with_cp'):
        advice.append('activation checkpointing: --with-cp')
    if wrapper.get('type', 'OptimWrapper') == 'OptimWrapper':
        advice.append('half precision: --amp bfloat16')
    side = smaller_side(cfg)
    how = f'--image-size {side}' if side else "smaller scales in the config's pipeline"
    advice.append(f'smaller images: {how}')
    if size > 1:
        advice.append(f'the same updates with half the batch: --accumulate {2 * counts}')
    if loader.get('num_workers'):
        advice.append('if it is not GPU memory: --cfg-options train_dataloader.num_workers=1')
    reason = str(error).strip().partition('\n')[0][:200] or type(error).__name__
    return f'out of memory ({reason}); try in this order: {"; ".join(advice)}'
