"""``crossformer train``: train a model."""

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from mmengine.config import Config

from ..checkpoint.load import check_model, compare_layouts
from ..checkpoint.meta import implied_layout
from ..checkpoint.reader import Checkpoint, open_checkpoint
from ..checkpoint.resume import install_reader, latest_intact, missing_parts
from ..utils.errors import UserError
from ..utils.outputs import check_outputs
from .distributed import on_first_process, sync_bn_warnings
from .hooks.curves import CURVES
from .mixed_precision import bfloat16_is_fast
from .runner import (
    add_run_options,
    apply_classes,
    checkpoint_folders,
    network_of,
    read_labels,
    run_config,
    running,
)

LOADERS = ('train_dataloader', 'val_dataloader')


def training_parser() -> argparse.ArgumentParser:
    """The options of the command; :func:`training_config` applies them."""
    parser = argparse.ArgumentParser(description='Train a model with MMEngine.')
    add_run_options(parser)
    parser.add_argument('--pretrained', metavar='FILE', help='initialise the backbone from these weights')
    parser.add_argument(
        '--resume',
        nargs='?',
        const='auto',
        metavar='FILE',
        help='continue from this checkpoint; without FILE, from the latest one in the work folder',
    )
    parser.add_argument(
        '--amp',
        nargs='?',
        const='bfloat16',
        choices=['bfloat16', 'float16'],
        help='mixed precision; float16 scales the loss and needs a GPU (bfloat16)',
    )
    parser.add_argument(
        '--auto-scale-lr',
        action='store_true',
        help='scale the learning rate in proportion to the images per update',
    )
    parser.add_argument('--batch-size', type=int, metavar='N', help='images per process and step')
    parser.add_argument(
        '--accumulate',
        type=int,
        metavar='N',
        help='update the weights every N steps, as with batches N times as large; the schedule counts steps',
    )
    parser.add_argument(
        '--with-cp',
        action='store_true',
        help='activation checkpointing: recompute activations of the backbone in the backward pass',
    )
    parser.add_argument('--clip-grad', type=float, metavar='NORM', help='clip the gradients to this norm')
    parser.add_argument(
        '--stop-on-nan',
        type=int,
        default=1,
        metavar='STEPS',
        help='stop after this many consecutive steps with a NaN or infinite loss; 0 for never (1)',
    )
    return parser


def train(options: argparse.Namespace) -> None:
    """Train a model.

    Args:
        options: The options parsed by :func:`training_parser`.

    Raises:
        UserError: An option, the config, the data or a checkpoint is invalid.
    """
    install_reader()
    cfg = training_config(options)
    with running(cfg, training=True) as run:
        run.checkpoint, resume_warnings = find_resume(cfg)
        on_first_process(lambda: check_work_folder(cfg, run.checkpoint))
        apply_classes(cfg, LOADERS)
        labels = read_labels(cfg, LOADERS)
        warnings = [*resume_warnings, *start_warnings(cfg), *sync_bn_warnings(cfg)]
        runner = run.build(labels, warnings)
        if run.checkpoint:
            check_model(network_of(runner), run.checkpoint)
            compare_layouts(network_of(runner), run.checkpoint.path, implied_layout(run.checkpoint))
        runner.train()
        if last := runner.message_hub.get_info('last_ckpt'):
            runner.logger.info(
                f'Last checkpoint: {last}; evaluate it: crossformer test {options.config} {last}'
            )


def training_config(options: argparse.Namespace) -> Config:
    """The config of a training, with all options applied; the data has not been read yet.

    Args:
        options: The options parsed by :func:`training_parser`.

    Raises:
        UserError: The config or an option is invalid.
    """
    cfg = run_config(options, LOADERS)
    apply_numbers(cfg, options)
    make_resumable(cfg)
    custom_hooks = (
        [{'type': 'FiniteLossHook', 'patience': options.stop_on_nan}] if options.stop_on_nan else []
    )
    if cfg.launcher != 'none':
        custom_hooks.append({'type': 'AgreementHook'})
    cfg.custom_hooks = [*cfg.get('custom_hooks', []), *custom_hooks]
    if options.with_cp:
        cfg.model.backbone.with_cp = True
    if options.amp:
        set_mixed_precision(cfg, options.amp)
    if options.auto_scale_lr:
        set_auto_scale_lr(cfg)
    if options.pretrained:
        _check_file('--pretrained', options.pretrained)
        cfg.model.backbone.init_cfg = {'type': 'Pretrained', 'checkpoint': options.pretrained}
    if options.resume:
        cfg.resume, cfg.load_from = True, None if options.resume == 'auto' else options.resume
        if cfg.load_from:
            _check_file('--resume', cfg.load_from)
    return cfg


def apply_numbers(cfg: Config, options: argparse.Namespace) -> None:
    """Check and apply ``--batch-size``, ``--accumulate`` and ``--clip-grad``."""
    for name, least in (('batch_size', 1), ('accumulate', 1), ('stop_on_nan', 0)):
        number = getattr(options, name)
        if number is not None and number < least:
            raise UserError(f'--{name.replace("_", "-")} {number}: must be at least {least}')
    if options.clip_grad is not None and not 0 < options.clip_grad < float('inf'):
        raise UserError(f'--clip-grad {options.clip_grad}: must be a number above 0, such as 1')
    if options.batch_size:
        cfg.train_dataloader.batch_size = options.batch_size
    if options.accumulate:
        cfg.optim_wrapper.accumulative_counts = options.accumulate
    if options.clip_grad:
        cfg.optim_wrapper.clip_grad = {'max_norm': options.clip_grad}


def make_resumable(cfg: Config) -> None:
    """Use the training loops and checkpoint hook of this package in place of mmengine's.

    Args:
        cfg: The config, changed in place; loops and hooks of other types are not replaced.
    """
    loop = cfg.train_cfg
    if 'type' not in loop:
        if 'by_epoch' not in loop:
            raise UserError('train_cfg has neither type nor by_epoch; set train_cfg.by_epoch=True or False')
        loop.type = 'EpochBasedTrainLoop' if loop.pop('by_epoch') else 'IterBasedTrainLoop'
    ours = {'EpochBasedTrainLoop': 'ResumableEpochLoop', 'IterBasedTrainLoop': 'ResumableIterLoop'}
    loop.type = ours.get(loop.type, loop.type)
    default = {'type': 'CheckpointHook', 'interval': 1}
    cfg.default_hooks = {'checkpoint': default, **cfg.get('default_hooks', {})}
    checkpoint = cfg.default_hooks.checkpoint
    if checkpoint and checkpoint.get('type') == 'CheckpointHook':
        checkpoint.type = 'AtomicCheckpointHook'


def set_mixed_precision(cfg: Config, dtype: str) -> None:
    """Train in ``'bfloat16'``, or in ``'float16'`` with a scaled loss.

    Args:
        cfg: The config, changed in place.
        dtype: The dtype.

    Raises:
        UserError: float16 without a GPU.
    """
    if dtype == 'bfloat16':
        cfg.optim_wrapper.type = 'BFloat16OptimWrapper'
        return
    if not torch.cuda.is_available():
        raise UserError('--amp float16 needs a GPU, but none is available; use --amp bfloat16')
    cfg.optim_wrapper.update(type='AmpOptimWrapper', dtype='float16', loss_scale='dynamic')


def set_auto_scale_lr(cfg: Config) -> None:
    """Scale the learning rate with the number of images per update.

    Args:
        cfg: The config, changed in place.

    Raises:
        UserError: The config does not state the batch size that its learning rate is for.
    """
    if 'base_batch_size' not in cfg.get('auto_scale_lr', {}):
        raise UserError(
            '--auto-scale-lr: the config does not state the batch size that its learning rate is for;'
            ' add --cfg-options auto_scale_lr.base_batch_size=16'
        )
    cfg.auto_scale_lr.enable = True
    # mmengine counts the images of one iteration, but an update may take several iterations
    cfg.auto_scale_lr.base_batch_size /= cfg.optim_wrapper.get('accumulative_counts', 1)


def _check_file(option: str, path: str) -> None:
    if not Path(path).is_file():
        raise UserError(f'{option} {path}: no such file')


def find_resume(cfg: Config) -> tuple[Checkpoint | None, list[str]]:
    """Find the checkpoint that a training resumes from, and use its seed.

    Args:
        cfg: The config of the run, changed in place: ``load_from``, ``resume`` and the seed.

    Returns:
        The checkpoint, or None for a new training; and lines for the log.

    Raises:
        UserError: The checkpoint cannot be read, or contains weights without a training state.
    """
    if not cfg.get('resume'):
        return None, []
    warnings = []
    if cfg.get('load_from'):
        checkpoint = open_checkpoint(cfg.load_from)
    else:
        checkpoint, complaints = latest_intact(checkpoint_folders(cfg))
        if checkpoint is None:
            cfg.resume = False
            return None, [f'{cfg.work_dir} contains no checkpoint to resume from: training from scratch']
        warnings = [f'ignored: {complaint}; resuming from {checkpoint.path}' for complaint in complaints]
    path = checkpoint.path
    if missing := missing_parts(checkpoint):
        raise UserError(
            f'--resume {path}: contains weights without a training state (no {", ".join(missing)});'
            ' to start a new training from them, use --pretrained FILE for the backbone or'
            ' --cfg-options load_from=FILE for the complete model'
        )
    for unit in ('epoch', 'iter'):
        if checkpoint['meta'].get(unit, 0) >= cfg.train_cfg.get(f'max_{unit}s', float('inf')):
            warnings.append(
                f'{path}: this training is already complete; raise train_cfg.max_{unit}s to train longer'
            )
    cfg.load_from = str(path)
    # mmengine restores the seed too, but only after it has built the sampler with another one.
    cfg.randomness = {**cfg.get('randomness', {}), 'seed': checkpoint['meta'].get('seed')}
    return checkpoint, warnings


def check_work_folder(cfg: Config, checkpoint: Checkpoint | None) -> None:
    """Check that a training does not replace files that this project did not write.

    Args:
        cfg: The config of the run.
        checkpoint: Where it resumes; one in the work folder makes the other checkpoints there its own.

    Raises:
        UserError: It would replace a config, checkpoints or ``curves.png``.
    """
    folders = checkpoint_folders(cfg)
    if checkpoint and checkpoint.path.resolve().parent in [folder.resolve() for folder in folders]:
        return
    written = [Path(cfg.work_dir, name) for name in (Path(cfg.filename).name, CURVES)]
    for name in ('epoch_*.pth', 'iter_*.pth', 'best_*_epoch_*.pth', 'best_*_iter_*.pth'):
        written += [path for folder in folders for path in folder.glob(name)]
    check_outputs('--work-dir', written)


def start_warnings(cfg: Config) -> Sequence[str]:
    """Warnings about a training's settings, as lines for the log."""
    warnings = []
    model = cfg.model
    if not (cfg.get('load_from') or model.get('pretrained') or model.backbone.get('init_cfg')):
        warnings.append(
            'no pretrained weights: the backbone is initialised randomly and will stay far below the'
            ' published results; give ImageNet weights with --pretrained FILE'
        )
    if cfg.optim_wrapper.get('type') == 'BFloat16OptimWrapper' and not bfloat16_is_fast():
        warnings.append('this CPU has no bfloat16 instructions: --amp is slower here than float32')
    counts = cfg.optim_wrapper.get('accumulative_counts', 1)
    if counts > 1:
        images = counts * cfg.train_dataloader.batch_size
        warnings.append(
            f'the weights are updated every {counts} iterations, from {images} images per process; the log,'
            ' the length of the run and the learning rate schedule still count iterations'
        )
    return warnings
