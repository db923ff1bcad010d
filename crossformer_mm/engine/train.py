"""``crossformer train``: train a model."""

import argparse
import shlex
from collections.abc import Sequence
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.dist import is_main_process
from mmengine.runner import Runner
from torch import nn

from ..checkpoint.cache import find_weights
from ..checkpoint.load import check_model, compare_layouts, load_model
from ..checkpoint.reader import Checkpoint, open_checkpoint
from ..checkpoint.resume import LAST, install_reader, latest_intact, missing_parts
from ..data.augment import add_augment_option, augmentation_of, set_augment
from ..data.datasets import class_datasets
from ..data.image_size import add_size_option, set_image_size
from ..models.arch import STAGES
from ..models.crossformer import loads_file
from ..utils.errors import UserError
from ..utils.outputs import check_outputs
from .batch_size import AUTO, add_batch_size_option, find_batch_size, needs_trials
from .changes import check_optimizer, check_trained_classes, compare_settings, state_warnings
from .config_options import given_options
from .distributed import on_first_process, sync_bn_warnings
from .early_stop import add_stop_option, set_early_stop
from .hooks.curves import CURVES
from .hooks.report import REPORT, reported
from .layer_decay import add_decay_option, set_layer_decay
from .mixed_precision import bfloat16_is_fast
from .runner import (
    SEEDS,
    Run,
    add_run_options,
    apply_data,
    checkpoint_folders,
    config_to_test,
    network_of,
    read_labels,
    run_config,
    running,
)
from .schedule import add_length_options, fit_warm_up, set_length
from .tracking import add_log_option, check_services, set_services
from .validation_set import add_fraction_options, check_fraction, draw_validation

LOADERS = ('train_dataloader', 'val_dataloader')
# Over about the last tenth of the steps so far, at most 5,000. (MMEngine's own gamma, 100, is a hundredth.)
EMA = {
    'type': 'EMAHook',
    'ema_type': 'MomentumAnnealingEMA',
    'momentum': 2e-4,
    'gamma': 10,
    'update_buffers': True,
}


def training_parser() -> argparse.ArgumentParser:
    """The options of the command; :func:`training_config` applies them."""
    parser = argparse.ArgumentParser(description='Train a model with MMEngine.')
    add_run_options(parser)
    _add_start_options(parser)
    add_length_options(parser)
    add_size_option(parser)
    _add_step_options(parser)
    parser.add_argument('--no-val', action='store_true', help='train without a validation set')
    add_fraction_options(parser)
    add_augment_option(parser)
    add_stop_option(parser)
    parser.add_argument(
        '--stop-on-nan',
        type=int,
        default=1,
        metavar='STEPS',
        help='stop after this many consecutive steps with a NaN or infinite loss; 0 for never (1)',
    )
    parser.add_argument(
        '--workers', type=int, metavar='N', help='worker processes that read data, per process'
    )
    parser.add_argument('--seed', type=int, metavar='N', help='seed of all random numbers (a random one)')
    add_log_option(parser)
    return parser


def _add_start_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that say which weights a training starts from."""
    weights = parser.add_mutually_exclusive_group()
    weights.add_argument(
        '--pretrained',
        metavar='FILE',
        help='initialise the backbone from this file or folder of save_pretrained; or, given the name of an'
        ' arch, such as s, from its file in the cache',
    )
    weights.add_argument(
        '--load',
        '--finetune',
        metavar='FILE',
        help='start from the weights of this complete model, such as a released classifier; the layers that'
        ' depend on the number of classes are initialised if it is another',
    )
    parser.add_argument(
        '--resume',
        nargs='?',
        const='auto',
        metavar='FILE|DIR',
        help='continue from this checkpoint, or from the latest one in this folder (that of --work-dir)',
    )


def _add_step_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that change what a step computes, and how weights are updated."""
    add_batch_size_option(parser)
    parser.add_argument(
        '--accumulate',
        type=int,
        metavar='N',
        help='update the weights every N steps, as with batches N times as large; the schedule counts steps',
    )
    parser.add_argument(
        '--amp',
        nargs='?',
        const='bfloat16',
        choices=['bfloat16', 'float16'],
        help='mixed precision; float16 scales the loss and needs a GPU (bfloat16)',
    )
    parser.add_argument(
        '--with-cp',
        action='store_true',
        help='activation checkpointing: recompute activations of the backbone in the backward pass',
    )
    parser.add_argument('--lr', type=float, metavar='X', help='the learning rate of the optimizer')
    parser.add_argument(
        '--auto-scale-lr',
        action='store_true',
        help='scale the learning rate in proportion to the images per update',
    )
    add_decay_option(parser)
    parser.add_argument('--clip-grad', type=float, metavar='NORM', help='clip the gradients to this norm')
    parser.add_argument(
        '--freeze',
        type=int,
        choices=range(STAGES + 1),
        metavar='N',
        help='keep the weights of the first embedding and of the first N stages, 0 to 4, of the backbone',
    )
    parser.add_argument(
        '--ema',
        action='store_true',
        help='average the weights over about the last tenth of the steps so far (exponential moving average);'
        ' this average is evaluated and saved',
    )


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
        run.start = cfg.get('load_from') if options.resume or not cfg.get('resume') else None
        run.checkpoint, resume_warnings = find_resume(cfg, options.resume)
        if run.checkpoint and (done := finished(cfg, run.checkpoint)):
            if is_main_process():
                print(done)
            return
        on_first_process(lambda: check_services(options.log))
        unknown_batch = needs_trials(cfg, options, run.checkpoint)
        if options.pretrained and not run.checkpoint:
            backbone_file(options.pretrained)
        run.weights = None if run.checkpoint else open_weights(cfg)
        on_first_process(lambda: check_work_folder(cfg, run.checkpoint, run.weights))
        drawn = draw_validation(cfg, options, run.checkpoint) if options.val_fraction else None
        run.data = apply_data(cfg, LOADERS, source=options.source)
        if options.augment:
            note = f'--augment {options.augment}: images go through {augmentation_of(cfg)}'
            run.data.notes.append(note)
        if drawn:
            run.data.notes.extend(drawn.notes)
            run.data.warnings.extend(drawn.warnings)
        labels = read_labels(cfg, LOADERS)
        if unknown_batch:
            run.data.notes.append(find_batch_size(cfg, options.accumulate, averages(cfg)))
        warnings = [*resume_warnings, *start_warnings(cfg), *sync_bn_warnings(cfg)]
        if run.checkpoint:
            check_trained_classes(cfg, run.checkpoint)
            if run.checkpoint.get('ema_state_dict') and not averages(cfg):
                raise UserError(f'--resume {run.checkpoint.path}: averages its weights; give --ema as before')
            warnings += [*compare_settings(cfg, run.checkpoint), *state_warnings(cfg)]
        runner = run.build(labels, warnings)
        set_start(runner, run)
        fit_warm_up(runner)
        with reported(runner, given_options(training_parser(), options), labels):
            runner.train()
        if last := runner.message_hub.get_info('last_ckpt'):
            command = shlex.join(['crossformer', 'test', str(config_to_test(cfg)), last])
            runner.logger.info(f'Last checkpoint: {last}; evaluate it: {command}')


def set_start(runner: Runner, run: Run) -> None:
    """Check what a training starts from against the model, and let the runner load it strictly.

    Args:
        runner: The runner.
        run: The run, with the open checkpoints.

    Raises:
        UserError: The checkpoint does not fit.
    """
    network = network_of(runner)
    if run.checkpoint:
        check_model(network, run.checkpoint)
        compare_layouts(network, run.checkpoint)
        forget_pretrained(network)
        check_optimizer(runner, run.checkpoint)
    elif run.cfg.get('load_from'):  # MMEngine's own loading would take what happens to fit
        runner.load_or_resume = lambda: load_model(network, run.weights, other_classes=True)


def training_config(options: argparse.Namespace) -> Config:
    """The config of a training, with all options applied; the data has not been read yet.

    Args:
        options: The options parsed by :func:`training_parser`.

    Raises:
        UserError: The config or an option is invalid.
    """
    check_fraction(options)
    cfg = run_config(options, LOADERS)
    if options.no_val:
        drop_validation(cfg)
    apply_numbers(cfg, options)
    set_length(cfg, options.epochs, options.iters, options.cfg_options)
    if options.image_size:
        set_image_size(cfg, options.image_size)
    make_resumable(cfg)
    own = [{'type': 'FiniteLossHook', 'patience': options.stop_on_nan}] if options.stop_on_nan else []
    if cfg.launcher != 'none':
        own.append({'type': 'AgreementHook'})
    earlier = ('FiniteLossHook', 'AgreementHook')  # the config that a training has written has them already
    hooks = [hook for hook in cfg.get('custom_hooks') or () if hook.get('type') not in earlier]
    cfg.custom_hooks = [*hooks, *own]
    if options.ema:
        average_weights(cfg)
    if options.layer_decay is not None:
        set_layer_decay(cfg, options.layer_decay)
    if options.augment:
        set_augment(cfg, options.augment)
    if options.early_stop is not None:
        set_early_stop(cfg, options.early_stop)
    set_services(cfg, options.log)
    if options.with_cp:
        cfg.model.backbone.with_cp = True
    if options.freeze is not None:
        cfg.model.backbone.frozen_stages = options.freeze
    if options.amp:
        set_mixed_precision(cfg, options.amp)
    if options.auto_scale_lr:
        set_auto_scale_lr(cfg)
    if options.pretrained:
        if cfg.get('load_from') and not (cfg.get('resume') and options.resume):
            start = 'resumes from' if cfg.get('resume') else 'starts from the complete model'
            raise UserError(
                f'--pretrained {options.pretrained}: the config {start} load_from={cfg.load_from}; leave one'
                ' of them out'
            )
        set_backbone_file(cfg, options.pretrained if options.resume else backbone_file(options.pretrained))
    if options.load:
        cfg.load_from, cfg.resume = options.load, False
    if options.resume:
        cfg.resume = True
        if options.resume != 'auto' and not Path(options.resume).exists():
            raise UserError(f'--resume {options.resume}: no such file or folder')
    return cfg


def average_weights(cfg: Config) -> None:
    """Average the weights by MMEngine's hook, whose average follows more closely at first.

    Args:
        cfg: The config, changed in place.

    Raises:
        UserError: The config averages them already.
    """
    if averages(cfg):
        raise UserError('--ema: the config averages the weights already; leave the option out')
    cfg.custom_hooks = [*cfg.custom_hooks, EMA]


def averages(cfg: Config) -> bool:
    """Whether a training averages its weights."""
    return any(str(hook.get('type')).endswith('EMAHook') for hook in cfg.get('custom_hooks') or ())


def set_backbone_file(cfg: Config, path: str | None) -> None:
    """Let the backbone's weights come from a file, instead of those that the config names.

    Args:
        cfg: The config, changed in place.
        path: The file; None for none.
    """
    for part in (cfg.model, cfg.model.backbone):  # MMSegmentation's models take the backbone's weights, too
        if part.get('pretrained'):
            part.pretrained = None
    cfg.model.backbone.init_cfg = {'type': 'Pretrained', 'checkpoint': path} if path else None


def open_weights(cfg: Config) -> Checkpoint | None:
    """Open what a new training starts from, before the data is checked, which takes longer.

    This is the complete model that ``load_from`` names, which makes the backbone's own weights superfluous,
    or else these.

    Args:
        cfg: The config, changed in place.

    Raises:
        UserError: The file cannot be read.
    """
    if cfg.get('load_from'):
        set_backbone_file(cfg, None)
        return open_checkpoint(cfg.load_from)
    init = cfg.model.backbone.get('init_cfg')
    named = isinstance(init, dict) and 'checkpoint' in init
    return open_checkpoint(find_weights(init['checkpoint'])) if named else None


def apply_numbers(cfg: Config, options: argparse.Namespace) -> None:
    """Check and apply the options that change one number of the config."""
    for name, least in (
        ('batch_size', 1),
        ('accumulate', 1),
        ('stop_on_nan', 0),
        ('workers', 0),
        ('seed', 0),
    ):
        number = getattr(options, name)
        if number not in (None, AUTO) and number < least:
            raise UserError(f'--{name.replace("_", "-")} {number}: must be at least {least}')
    for name, number, example in (('clip-grad', options.clip_grad, '1'), ('lr', options.lr, '1e-4')):
        if number is not None and not 0 < number < float('inf'):
            raise UserError(f'--{name} {number}: must be a number above 0, such as {example}')
    if (options.seed or 0) >= SEEDS:
        raise UserError(f'--seed {options.seed}: must be below {SEEDS}')
    if options.batch_size not in (None, AUTO):
        cfg.train_dataloader.batch_size = options.batch_size
    if options.accumulate:
        cfg.optim_wrapper.accumulative_counts = options.accumulate
    if options.clip_grad:
        cfg.optim_wrapper.clip_grad = {'max_norm': options.clip_grad}
    if options.lr:
        if 'optimizer' not in cfg.optim_wrapper:
            raise UserError(
                f'--lr {options.lr}: the config has several optimizers; set the rate of each in it'
            )
        cfg.optim_wrapper.optimizer.lr = options.lr
    if options.seed is not None:
        cfg.randomness = {**cfg.get('randomness', {}), 'seed': options.seed}
    for loader in LOADERS if options.workers is not None else ():
        if cfg.get(loader):
            cfg[loader].num_workers = options.workers
            cfg[loader].persistent_workers = options.workers > 0


def drop_validation(cfg: Config) -> None:
    """Train without validation, and so without a best checkpoint; the last ones are kept.

    Args:
        cfg: The config, changed in place.
    """
    cfg.val_dataloader = cfg.val_cfg = cfg.val_evaluator = None
    checkpoint = cfg.get('default_hooks', {}).get('checkpoint') or {}
    for setting in ('save_best', 'rule', 'greater_keys', 'less_keys'):
        checkpoint.pop(setting, None)


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
        for name in ('loss_scale', 'dtype', 'use_fsdp'):  # of AmpOptimWrapper alone
            cfg.optim_wrapper.pop(name, None)
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


def backbone_file(given: str) -> str:
    """The file that ``--pretrained`` means, see :func:`~crossformer_mm.checkpoint.cache.find_weights`."""
    path = find_weights(given)
    if not path.is_file():
        raise UserError(f'--pretrained {given}: no such file')
    return str(path)


def find_resume(cfg: Config, source: str | None = None) -> tuple[Checkpoint | None, list[str]]:
    """Find the checkpoint that a training resumes from, and use its seed.

    Args:
        cfg: The config of the run, changed in place: ``load_from``, ``resume`` and the seed.
        source: A checkpoint; a folder with checkpoints, or the file ``last_checkpoint`` in one; or ``'auto'``
            for the work folder. By default, what the config sets with ``resume`` and ``load_from``.

    Returns:
        The checkpoint, or None for a new training; and lines for the log.

    Raises:
        UserError: The checkpoint cannot be read, or contains weights without a training state.
    """
    if source is None and cfg.get('resume'):
        source = cfg.get('load_from') or 'auto'
    cfg.resume = False
    if source is None:
        return None, []
    warnings = []
    if source != 'auto' and not Path(source).is_dir() and Path(source).name != LAST:
        checkpoint = open_checkpoint(source)
    else:
        path = Path(cfg.work_dir if source == 'auto' else source)
        folder = path.parent if path.name == LAST else path
        checkpoint, complaints = latest_intact(checkpoint_folders(cfg, folder))
        if checkpoint is None and source == 'auto':
            start = cfg.get('load_from') or 'scratch'
            return None, [f'{folder} contains no checkpoint to resume from: training from {start}']
        if checkpoint is None:
            raise UserError(f'--resume {source}: contains no checkpoint to resume from')
        warnings = [f'ignored: {complaint}; resuming from {checkpoint.path}' for complaint in complaints]
    path = checkpoint.path
    if missing := missing_parts(checkpoint):
        raise UserError(
            f'--resume {path}: contains weights without a training state (no {", ".join(missing)});'
            ' to start a new training from them, use --pretrained FILE for the backbone or --load FILE for'
            ' the complete model'
        )
    if path.parent.resolve() not in [folder.resolve() for folder in checkpoint_folders(cfg)]:
        warnings.append(f'resuming from {path}; new checkpoints and the log go to {cfg.work_dir}')
    seed, wanted = checkpoint['meta'].get('seed'), cfg.get('randomness', {}).get('seed')
    if wanted not in (None, seed):
        warnings.append(f'randomness.seed={wanted} is ignored: {path} has seed {seed}')
    cfg.resume, cfg.load_from = True, str(path)
    # mmengine restores the seed too, but only after it has built the sampler with another one.
    cfg.randomness = {**cfg.get('randomness', {}), 'seed': seed}
    return checkpoint, warnings


def check_work_folder(cfg: Config, resumed: Checkpoint | None, loaded: Checkpoint | None) -> None:
    """Check that a training does not replace files that this project did not write, or that it reads.

    Args:
        cfg: The config of the run.
        resumed: Where it resumes; one in the work folder makes the other checkpoints there its own.
        loaded: The model that it starts from.

    Raises:
        UserError: It would replace a config, checkpoints, ``curves.png`` or ``report.html``.
    """
    folders = checkpoint_folders(cfg)
    if resumed and resumed.path.resolve().parent in [folder.resolve() for folder in folders]:
        return
    written = [Path(cfg.work_dir, name) for name in (Path(cfg.filename).name, CURVES, REPORT)]
    for name in ('epoch_*.pth', 'iter_*.pth', 'best_*_epoch_*.pth', 'best_*_iter_*.pth'):
        written += [path for folder in folders for path in folder.glob(name)]
    check_outputs('--work-dir', written, [loaded.path] if loaded else [])


def finished(cfg: Config, checkpoint: Checkpoint) -> str | None:
    """A line that says what to do if a checkpoint is the last one of its training; otherwise None."""
    for unit in ('epoch', 'iter'):
        done, most = checkpoint['meta'][unit], cfg.train_cfg.get(f'max_{unit}s', float('inf'))
        if done >= most:
            return (
                f'{checkpoint.path}: this training is already complete ({unit} {done} of {most}); evaluate it'
                f' with crossformer test {config_to_test(cfg)} {checkpoint.path}, or raise'
                f' train_cfg.max_{unit}s to train longer'
            )
    return None


def forget_pretrained(model: nn.Module) -> None:
    """Load no files of initial weights, which may be gone, since a checkpoint has all weights."""
    for module in model.modules():
        inits = getattr(module, 'init_cfg', None) or []
        inits = inits if isinstance(inits, list) else [inits]
        if any(map(loads_file, inits)):
            module.init_cfg = [init for init in inits if not loads_file(init)] or None


def start_warnings(cfg: Config) -> Sequence[str]:
    """Warnings about a training's settings, as lines for the log."""
    warnings = []
    model = cfg.model
    starts = cfg.get('load_from') or model.get('pretrained') or model.backbone.get('init_cfg')
    if not starts and not any(class_datasets(cfg, *LOADERS)):  # classifiers are what others start from
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
