"""A training and an evaluation, from the options of a command line to the end."""

import argparse
import errno
import logging
import signal
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.model import BaseTTAModel, is_model_wrapper
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from torch import nn

from ..checkpoint import install_reader, load_model, read_checkpoint
from ..checkpoint.classes import dataset_meta_of
from ..checkpoint.load import check_backbone, check_model
from ..checkpoint.names import shorten
from ..checkpoint.resume import latest_intact, missing_parts
from ..data.datasets import build_network, replace_sync_bn
from ..data.label_check import LabelReport
from ..data.label_options import check_labels
from ..data.options import classes_of
from ..models.crossformer import CrossFormer
from ..utils.errors import UserError
from .config import add_options, evaluation_config, is_first_process, training_config
from .memory import memory_advice, ran_out_of_memory
from .mixed_precision import bfloat16_is_fast
from .settings import check_settings

DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
CLASSES_NAMED = 6  # in a message; the others are counted


def training_parser() -> argparse.ArgumentParser:
    """The options of ``tools/train.py``."""
    parser = argparse.ArgumentParser(description='Train a model with MMEngine.')
    add_options(parser)
    parser.add_argument('--pretrained', metavar='FILE', help='weights for the backbone to start from')
    parser.add_argument(
        '--resume',
        nargs='?',
        const='auto',
        metavar='FILE',
        help='go on from this checkpoint; without FILE, from the latest in the work folder',
    )
    parser.add_argument(
        '--amp',
        nargs='?',
        const='bfloat16',
        choices=['bfloat16', 'float16'],
        help='mixed precision; float16 scales the loss and needs a GPU (bfloat16)',
    )
    parser.add_argument(
        '--auto-scale-lr', action='store_true', help='learning rate in proportion to the images an update'
    )
    parser.add_argument('--batch-size', type=int, metavar='N', help='images a process and step')
    parser.add_argument(
        '--accumulate',
        type=int,
        metavar='N',
        help='update the weights every N steps, as batches N times as large would; the schedule counts steps',
    )
    parser.add_argument(
        '--with-cp',
        action='store_true',
        help="compute the backbone's activations again in the backward pass, instead of keeping them",
    )
    parser.add_argument('--clip-grad', type=float, metavar='NORM', help='clip the gradients to this norm')
    parser.add_argument(
        '--stop-on-nan',
        type=int,
        default=1,
        metavar='STEPS',
        help='stop after so many steps in a row with a NaN or infinite loss; 0 for never (1)',
    )
    return parser


def train(options: argparse.Namespace) -> None:
    """Train.

    Args:
        options: What :func:`training_parser` parsed.

    Raises:
        UserError: An option, the config or the data does not work.
    """
    install_reader()
    cfg = training_config(options)
    warnings = [*set_start(cfg), *start_warnings(cfg), *set_norms(cfg)]
    labels = _check_labels(cfg, ('train_dataloader', 'val_dataloader'))
    with _processes(cfg), _explained(cfg):
        runner = Runner.from_cfg(cfg)
        _log_start(runner, cfg, labels, warnings)
        runner.train()


def set_start(cfg: Config) -> list[str]:
    """Find what a training starts from, and check that it fits, before anything is written.

    Args:
        cfg: The config of the run, changed in place: the checkpoint to resume from, if any, and its seed.

    Returns:
        Lines for the log.

    Raises:
        UserError: The checkpoint or the pretrained weights cannot be used.
    """
    check_settings(cfg, ('train', 'val'), check_builds(cfg))
    check_pretrained(cfg)
    if not cfg.get('resume'):
        return []
    path, warnings = cfg.get('load_from'), []
    if not path:
        path, complaints = latest_intact(checkpoint_folders(cfg))
        warnings = [f'left out: {complaint}; going on from {path}' for complaint in complaints]
    if not path:
        cfg.resume = False
        return [f'{cfg.work_dir} holds no checkpoint to resume from: the run starts anew']
    checkpoint = check_resumable(path)
    check_weights(cfg, path)
    cfg.load_from = str(path)
    # mmengine sets it too, but after it has built the sampler with another one.
    cfg.randomness = {**cfg.get('randomness', {}), 'seed': checkpoint['meta'].get('seed')}
    return warnings


def start_warnings(cfg: Config) -> list[str]:
    """What is easily overlooked about how a training starts.

    Args:
        cfg: The config of the run.

    Returns:
        Lines for the log.
    """
    warnings = []
    if not cfg.get('load_from') and not cfg.model.backbone.get('init_cfg'):
        warnings.append(
            'no weights are loaded: the backbone starts from random ones, and will stay far below the'
            ' published results; give ImageNet weights with --pretrained FILE'
        )
    if cfg.optim_wrapper.get('type') == 'BFloat16OptimWrapper' and not bfloat16_is_fast():
        warnings.append(
            'this CPU has no instructions for bfloat16, which is slower here than float32: leave out --amp'
        )
    counts = cfg.optim_wrapper.get('accumulative_counts', 1)
    if counts > 1:
        images = counts * cfg.train_dataloader.batch_size
        warnings.append(
            f'the weights are updated every {counts} iterations, from {images} images a process; the log,'
            ' the length of the run and the schedule of the learning rate still count iterations'
        )
    return warnings


def checkpoint_folders(cfg: Config) -> list[Path]:
    """Where a training writes its checkpoints.

    Args:
        cfg: The config of the run.

    Returns:
        The work folder, and the place beside it that the checkpoint's hook may have.
    """
    folders = [Path(cfg.work_dir)]
    if elsewhere := (cfg.default_hooks.get('checkpoint') or {}).get('out_dir'):
        folders.append(Path(elsewhere, folders[0].name))
    return folders


def evaluation_parser() -> argparse.ArgumentParser:
    """The options of ``tools/test.py``."""
    parser = argparse.ArgumentParser(description='Evaluate a checkpoint with MMEngine.')
    add_options(parser)
    parser.add_argument('checkpoint', help='the weights to evaluate')
    parser.add_argument(
        '--out',
        metavar='PLACE',
        help='detection: NAME.json, for NAME.bbox.json and NAME.segm.json as COCO has results;'
        ' segmentation: a folder, for a label map an image (PNG, in the numbering of the annotations)',
    )
    parser.add_argument(
        '--format-only',
        action='store_true',
        help='write the files of --out alone, which needs no annotations and no label maps',
    )
    parser.add_argument(
        '--plots',
        metavar='DIR',
        help='draw the confusion matrix and precision over recall, or the IoU of each class (PNG)',
    )
    parser.add_argument(
        '--tta', action='store_true', help='segmentation: test at several scales, flipped and not'
    )
    parser.add_argument('--show-dir', metavar='DIR', help='draw predictions beside the ground truth')
    return parser


def evaluate(options: argparse.Namespace) -> dict[str, float]:
    """Evaluate.

    Args:
        options: What :func:`evaluation_parser` parsed.

    Returns:
        The evaluator's numbers by name.

    Raises:
        UserError: An option, the config, the data or the checkpoint does not work.
    """
    install_reader()
    cfg = evaluation_config(options)
    check_classes(cfg, read_checkpoint(options.checkpoint, mmap=True), options.checkpoint)
    check_weights(cfg, options.checkpoint)
    check_settings(cfg, ('test',))
    warnings = set_norms(cfg)
    labels = [] if options.format_only else _check_labels(cfg, ('test_dataloader',))
    with _processes(cfg):
        runner = Runner.from_cfg(cfg)
        _log_start(runner, cfg, labels, warnings)
        load_model(_network(runner.model), options.checkpoint)
        return runner.test()


def set_norms(cfg: Config) -> list[str]:
    """Put BN in place of SyncBN where processes share the work without GPUs, which SyncBN needs.

    In a run of one process, MMEngine does so, and says it on the log.

    Args:
        cfg: The config of the run, changed in place.

    Returns:
        Lines for the log.
    """
    if cfg.launcher == 'none' or torch.cuda.is_available() or not replace_sync_bn(cfg.model):
        return []
    return ['SyncBN is replaced by BN: it needs GPUs, and each process here counts its own images alone']


def check_classes(cfg: Config, checkpoint: dict[str, Any], path: str | Path) -> None:
    """Check that a checkpoint was trained on the classes of the data that it is tested on.

    Args:
        cfg: The config of the run.
        checkpoint: The checkpoint; one without class names passes.
        path: Where it is from, for the message.

    Raises:
        UserError: The classes differ.
    """
    trained = dataset_meta_of(checkpoint).get('classes')
    tested = classes_of(cfg)
    if trained and tested and trained != tested:
        raise UserError(
            f'{path} was trained on other classes ({shorten(trained, CLASSES_NAMED)}) than the data has'
            f' ({shorten(tested, CLASSES_NAMED)}); name the data it was trained on with --data-root or'
            ' --val-ann, and the names of label maps with --classes'
        )


def check_weights(cfg: Config, path: str) -> None:
    """Check that a checkpoint fits the config's model, before the run makes its work folder.

    Args:
        cfg: The config of the run.
        path: The checkpoint.

    Raises:
        UserError: Tensors are missing, unexpected or of another shape; the message names them.
    """
    init_default_scope(cfg.get('default_scope', 'mmengine'))
    check_model(_network(build_network(cfg, cfg.model)), path)


def _network(model: nn.Module) -> nn.Module:
    """The network itself, without what shares it among processes or shows it several views."""
    while is_model_wrapper(model) or isinstance(model, BaseTTAModel):
        model = model.module
    return model


def check_builds(cfg: Config) -> nn.Module:
    """Check that a config's model builds, before the run makes its work folder.

    Args:
        cfg: The config of the run.

    Returns:
        The model.

    Raises:
        UserError: It does not.
    """
    init_default_scope(cfg.get('default_scope', 'mmengine'))
    with warnings.catch_warnings():  # the run builds it again, and warns then
        warnings.simplefilter('ignore')
        return build_network(cfg, cfg.model)


def check_pretrained(cfg: Config) -> None:
    """Check that the weights that a config names fit its backbone, where that is one of this package's.

    Args:
        cfg: The config of the run.

    Raises:
        UserError: They do not fit, or the file cannot be read.
    """
    init_cfg = cfg.model.backbone.get('init_cfg')
    if not init_cfg or init_cfg.get('type') != 'Pretrained':
        return
    init_default_scope(cfg.get('default_scope', 'mmengine'))
    backbone = build_network(cfg, cfg.model.backbone)
    if isinstance(backbone, CrossFormer):
        check_backbone(backbone, init_cfg.checkpoint)


def check_resumable(path: str | Path) -> dict[str, Any]:
    """Check that a checkpoint holds a training to go on with, and not weights alone.

    Args:
        path: The checkpoint.

    Returns:
        What it holds.

    Raises:
        UserError: It cannot be read, or holds no such state.
    """
    checkpoint = read_checkpoint(path, mmap=True)
    if missing := missing_parts(checkpoint):
        raise UserError(
            f'--resume {path}: holds weights without the state of a training (no {", ".join(missing)});'
            ' to start a new one from them, --pretrained FILE takes the backbone,'
            ' --cfg-options load_from=FILE the whole model'
        )
    return checkpoint


@contextmanager
def _explained(cfg: Config) -> Iterator[None]:
    """Say in one line what to do where a run stops for what the user can mend."""
    told, logging.raiseExceptions = logging.raiseExceptions, False  # a full disk is said below, and once
    try:
        yield
    except UserError:
        raise
    except KeyboardInterrupt as stop:
        raise type(stop)(
            f'the same command with --resume goes on from the last checkpoint in {cfg.work_dir}'
        ) from None
    except Exception as error:
        if ran_out_of_memory(error):
            raise UserError(memory_advice(cfg, error)) from error
        if isinstance(error, OSError) and error.errno in DISK_FULL:
            raise UserError(
                f'{error.filename or cfg.work_dir}: cannot be written ({error.strerror}); the checkpoints are'
                ' there: make room, and go on with --resume'
            ) from error
        raise
    finally:
        logging.raiseExceptions = told


@contextmanager
def _processes(cfg: Config) -> Iterator[None]:
    """Join the other processes, as MMEngine does on GPUs alone, and end with the first that fails."""
    if cfg.launcher == 'none':
        yield
        return
    # Waiting for the others, a process is not in Python, where Terminated would be raised.
    handler = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    on_cpu = not torch.cuda.is_available()
    try:
        if on_cpu:
            torch.distributed.init_process_group('gloo')
        yield
        if on_cpu:  # an error is first printed, and ends the connections with this process
            torch.distributed.destroy_process_group()
    except RuntimeError as error:
        if not lost_process(error):
            raise
        raise UserError(
            'another process ended, and this one with it; look for the error of that one'
        ) from error
    finally:
        signal.signal(signal.SIGTERM, handler)


def lost_process(error: RuntimeError) -> bool:
    """Whether an error only says that another process is gone, as gloo words it.

    Args:
        error: From an operation that several processes share.
    """
    return 'gloo' in str(error) and 'Connection' in str(error)


def _check_labels(cfg: Config, loaders: Sequence[str]) -> list[LabelReport]:
    """Read the label maps once, whatever the number of processes."""
    return check_labels(cfg, loaders) if is_first_process(cfg.launcher) else []


def _log_start(runner: Runner, cfg: Config, labels: Sequence[LabelReport], warnings: Sequence[str]) -> None:
    classes = classes_of(cfg)
    if classes:
        runner.logger.info(f'{len(classes)} classes: {shorten(classes, CLASSES_NAMED)}')
    for report in labels:
        runner.logger.info(report.summary())
        warnings = [*warnings, *(f'{report.folder}: {warning.what}' for warning in report.warnings)]
    for warning in warnings:
        runner.logger.warning(warning)
