"""A training and an evaluation, from the options of a command line to the end."""

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner import Runner, find_latest_checkpoint

from .checkpoint import install_reader, load_model, read_checkpoint
from .checkpoint.classes import dataset_meta_of
from .checkpoint.load import check_model
from .checkpoint.names import shorten
from .data_config import classes_of
from .errors import UserError
from .run_config import add_options, evaluation_config, training_config

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
        '--auto-scale-lr', action='store_true', help='learning rate in proportion to the batch'
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
    if resumed := _resumed_from(cfg):
        check_resumable(resumed)
    with _processes(cfg):
        runner = Runner.from_cfg(cfg)
        _log_classes(runner, cfg)
        for warning in start_warnings(cfg):
            runner.logger.warning(warning)
        runner.train()


def start_warnings(cfg: Config) -> list[str]:
    """What is easily overlooked about where a training starts from.

    Args:
        cfg: The config of the run.

    Returns:
        Lines for the log.
    """
    if cfg.get('load_from') or _resumed_from(cfg):
        return []
    warnings = []
    if cfg.get('resume'):
        warnings.append(f'{cfg.work_dir} holds no checkpoint to resume from: the run starts anew')
    if not cfg.model.backbone.get('init_cfg'):
        warnings.append(
            'no weights are loaded: the backbone starts from random ones, and will stay far below the'
            ' published results; give ImageNet weights with --pretrained FILE'
        )
    return warnings


def evaluation_parser() -> argparse.ArgumentParser:
    """The options of ``tools/test.py``."""
    parser = argparse.ArgumentParser(description='Evaluate a checkpoint with MMEngine.')
    add_options(parser)
    parser.add_argument('checkpoint', help='the weights to evaluate')
    parser.add_argument(
        '--out', metavar='NAME.json', help='write NAME.bbox.json and NAME.segm.json, as COCO has results'
    )
    parser.add_argument(
        '--format-only',
        action='store_true',
        help='write the files of --out alone; the annotation file needs no annotations (COCO test-dev)',
    )
    parser.add_argument(
        '--plots', metavar='DIR', help='draw precision over recall and the confusion matrix (PNG)'
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
    with _processes(cfg):
        runner = Runner.from_cfg(cfg)
        _log_classes(runner, cfg)
        load_model(runner.model, options.checkpoint)
        return runner.test()


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
            ' --val-ann'
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
    check_model(MODELS.build(cfg.model), path)


def check_resumable(path: str | Path) -> None:
    """Check that a checkpoint holds a training to go on with, and not weights alone.

    Args:
        path: The checkpoint.

    Raises:
        UserError: It cannot be read, or holds no such state.
    """
    checkpoint = read_checkpoint(path, mmap=True)
    missing = [part for part in ('optimizer', 'message_hub') if part not in checkpoint]
    if missing:
        raise UserError(
            f'--resume {path}: holds weights without the state of a training (no {", ".join(missing)});'
            ' to start a new one from them, --pretrained FILE takes the backbone,'
            ' --cfg-options load_from=FILE the whole model'
        )


def _resumed_from(cfg: Config) -> str | None:
    """The checkpoint that a run goes on from, if any."""
    if not cfg.get('resume'):
        return None
    return cfg.get('load_from') or find_latest_checkpoint(cfg.work_dir)


@contextmanager
def _processes(cfg: Config) -> Iterator[None]:
    """Join the other processes where MMEngine does not: without a GPU, which it asks CUDA for first."""
    on_cpu = cfg.launcher != 'none' and not torch.cuda.is_available()
    if on_cpu:
        torch.distributed.init_process_group('gloo')
    try:
        yield
    finally:
        if on_cpu:
            torch.distributed.destroy_process_group()


def _log_classes(runner: Runner, cfg: Config) -> None:
    classes = classes_of(cfg)
    if classes:
        runner.logger.info(f'{len(classes)} classes: {shorten(classes, CLASSES_NAMED)}')
