"""Describe the settings of a training in words."""

from collections.abc import Iterable, Sequence

from mmengine.config import Config
from mmengine.dist import get_world_size
from mmengine.runner import EpochBasedTrainLoop, Runner

from ..data.augment import augmentation_of
from ..data.datasets import trains_masks
from ..data.image_size import sizes_in
from .runner import network_of


def settings_of(runner: Runner) -> Iterable[tuple[str, str]]:
    """The settings of a training by name, those that are not set empty."""
    cfg, network, wrapper = runner.cfg, network_of(runner), runner.cfg.optim_wrapper
    size, processes = (cfg.get('train_dataloader') or {}).get('batch_size', 1), get_world_size()
    steps = wrapper.get('accumulative_counts', 1)
    images = size * processes * steps
    parameters = list(network.parameters())
    every = sum(parameter.numel() for parameter in parameters)
    trained = sum(parameter.numel() for parameter in parameters if parameter.requires_grad)
    frozen = f', of which {trained / 1e6:.3f} M are trained' if trained < every else ''
    yield 'model', str(cfg.model.get('type'))
    backbone = cfg.model.get('backbone', {})
    yield 'backbone', f'{backbone.get("type")}, arch {backbone.get("arch")}'
    yield 'parameters', f'{every / 1e6:.3f} M{frozen}'
    init = backbone.get('init_cfg') or {}
    start = cfg.get('load_from') or (init.get('checkpoint') if isinstance(init, dict) else init)
    yield 'started from', f'{start or "random weights"}{" (resumed)" if runner.iter else ""}'
    optimizer = wrapper.get('optimizer', {})
    decay = f', weight decay {optimizer["weight_decay"]:g}' if 'weight_decay' in optimizer else ''
    yield 'optimizer', f'{optimizer.get("type", "several")}{decay}'
    yield 'learning rate', _rate(cfg, images) if 'lr' in optimizer else ''
    yield 'layer decay', str((wrapper.get('paramwise_cfg') or {}).get('decay_rate', 'off'))
    yield 'schedule', _schedule(cfg.get('param_scheduler') or ())
    unit = 'epochs' if isinstance(runner.train_loop, EpochBasedTrainLoop) else 'iterations'
    yield 'length', f'{runner.max_epochs if unit == "epochs" else runner.max_iters:,} {unit}'
    factors = f'{size} images × {processes} processes × {steps} steps per update'
    yield 'batch', f'{factors} = {images}'
    yield 'augmentation', augmentation_of(cfg)
    yield 'sizes in training', ', '.join(sizes_in(cfg.get('train_dataloader')))
    yield 'sizes in validation', ', '.join(sizes_in(cfg.get('val_dataloader')))
    precision = wrapper.get('type', 'OptimWrapper')
    yield 'mixed precision', 'off' if precision == 'OptimWrapper' else str(precision)
    hooks = {str(hook.get('type')): hook for hook in cfg.get('custom_hooks') or () if isinstance(hook, dict)}
    yield 'average of weights', ', '.join(name for name in hooks if name.endswith('EMAHook')) or 'off'
    stop = hooks.get('EarlyStopHook')
    yield 'early stop', f'after {stop["patience"]} validations without a better score' if stop else 'off'
    frozen = backbone.get('frozen_stages', -1)
    yield 'frozen', f'the first embedding and {frozen} stages' if frozen >= 0 else 'nothing'
    clipping = wrapper.get('clip_grad') or {}
    yield 'gradient clipping', ', '.join(f'{key} {value}' for key, value in clipping.items()) or 'off'
    yield 'seed', str(runner.seed)


def _rate(cfg: Config, images: int) -> str:
    """The learning rate for a number of images per update."""
    rate, scale = cfg.optim_wrapper.optimizer.lr, cfg.get('auto_scale_lr') or {}
    if not scale.get('enable'):
        return f'{rate:g}'
    base = scale.base_batch_size
    return f'{rate * images / base:g}, scaled from {rate:g} for {base} images'


def _schedule(schedulers: Sequence[dict] | dict) -> str:
    texts = []
    for one in [schedulers] if isinstance(schedulers, dict) else schedulers:
        settings = ', '.join(
            f'{key} {value}' for key, value in one.items() if key not in ('type', 'by_epoch')
        )
        texts.append(f'{one.get("type")} ({settings})')
    return '; '.join(texts) or 'constant'


def task_of(cfg: Config) -> str:
    """What a model is trained for."""
    if cfg.get('default_scope') == 'mmdet':
        return 'instance segmentation' if trains_masks(cfg) else 'detection'
    return {'mmseg': 'semantic segmentation', 'mmpretrain': 'classification'}.get(
        cfg.get('default_scope'), 'training'
    )
