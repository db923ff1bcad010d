"""Shared parts of training and testing: common options, the config of a run, and its error messages."""

import argparse
import errno
import logging
import shutil
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from mmengine.config import Config
from mmengine.dist import is_main_process
from mmengine.model import BaseTTAModel, is_model_wrapper
from mmengine.runner import Runner
from torch import nn

from ..data.classes import classes_of, read_classes, set_classes
from ..data.datasets import LOADERS
from ..data.label_check import LabelReport
from ..data.label_folders import check_labels
from ..data.loading import unreadable_images_named
from ..data.options import add_data_options, data_options, set_data_paths
from ..utils.errors import UserError
from ..utils.files import check_folder
from ..utils.text import shorten
from .build_errors import build_error
from .config import CONFIG_HELP, add_cfg_options, load_config
from .distributed import LAUNCHERS, on_first_process, process_group, set_launcher
from .memory import memory_advice, ran_out_of_memory

DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
CLASSES_NAMED = 6  # class names in a message; the others are counted


def add_run_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that training and testing share."""
    parser.add_argument('config', help=CONFIG_HELP)
    parser.add_argument('--work-dir', help='folder for logs and results (work_dirs/CONFIG)')
    add_data_options(parser)
    add_cfg_options(parser)
    parser.add_argument(
        '--launcher', choices=['none', *LAUNCHERS], default='none', help='what started this process (none)'
    )
    # torchrun sets the variable instead; older launchers pass the option, in either spelling.
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0, help=argparse.SUPPRESS)


def run_config(options: argparse.Namespace, loaders: Sequence[str]) -> Config:
    """Load the config of a run and apply the options that training and testing share.

    Args:
        options: The parsed options of the command.
        loaders: The data loaders that the run uses.

    Returns:
        The config; nothing of the data has been read yet.

    Raises:
        UserError: The config or an option is invalid.
    """
    cfg = load_config(options.config, options.cfg_options)
    cfg.work_dir = options.work_dir or cfg.get('work_dir') or f'work_dirs/{Path(options.config).stem}'
    check_folder('--work-dir', cfg.work_dir)
    _check_parts(cfg, [loader.removesuffix('_dataloader') for loader in loaders])
    set_data_paths(cfg, data_options(options))
    for loader in LOADERS:  # persistent workers are invalid without worker processes
        if cfg.get(loader) and not cfg[loader].get('num_workers'):
            cfg[loader].persistent_workers = False
    set_launcher(cfg, options.launcher, options.local_rank)
    return cfg


def _check_parts(cfg: Config, splits: Sequence[str]) -> None:
    """Check settings for which MMEngine would fail much later, or with the whole config in the message."""
    if not isinstance(cfg.get('model'), dict) or 'backbone' not in cfg.model:
        raise UserError(f'{cfg.filename} has no model with a backbone; "crossformer configs" lists configs')
    for split in splits:
        last = 'optim_wrapper' if split == 'train' else f'{split}_evaluator'
        names = [f'{split}_dataloader', f'{split}_cfg', last]
        missing = [name for name in names if cfg.get(name) is None]
        if missing and (len(missing) < len(names) or split != 'val'):
            raise UserError(f'{missing[0]} is missing; {", ".join(names)} are needed together')
        for name in names[: 0 if missing else 3]:
            if not isinstance(cfg[name], dict) and not (name == last and isinstance(cfg[name], list)):
                raise UserError(f'{name}={cfg[name]!r:.60}: must be a dict')
        for key, least in (('batch_size', 1), ('num_workers', 0)):
            value = (cfg.get(names[0]) or {}).get(key, least)
            if value < least:
                raise UserError(f'{names[0]}.{key}={value}: must be at least {least}')
    for key in ('max_epochs', 'max_iters', 'val_interval') if 'train' in splits else ():
        count = cfg.train_cfg.get(key, 1)
        if not isinstance(count, int) or count < 1:
            raise UserError(f'train_cfg.{key}={count!r}: must be an integer above 0')


def apply_classes(cfg: Config, loaders: Sequence[str], annotated: bool = True) -> None:
    """Check the files of a run's data, only in the first process, and apply its classes in all of them.

    Args:
        cfg: The config of the run, changed in place.
        loaders: The data loaders that the run uses.
        annotated: Whether the run needs annotations.

    Raises:
        UserError: The data is missing or invalid.
    """
    set_classes(cfg, on_first_process(lambda: read_classes(cfg, loaders, annotated)))


def read_labels(cfg: Config, loaders: Sequence[str]) -> list[LabelReport]:
    """Check the content of a run's label maps, only in the first process; returns one report per folder.

    Raises:
        UserError: A label map is missing or invalid.
    """
    return on_first_process(lambda: check_labels(cfg, loaders))


@contextmanager
def running(cfg: Config) -> Iterator[None]:
    """Join the other processes of a run, and turn errors that a user can fix into one line.

    A work folder created for the run is removed if the run stops before its first checkpoint.

    Args:
        cfg: The config of the run.

    Raises:
        UserError: The run failed; the message names the remedy.
    """
    raise_in_logging, logging.raiseExceptions = logging.raiseExceptions, False  # report a full disk once
    folder = Path(cfg.work_dir)
    existing = {*folder.iterdir()} if folder.is_dir() else set()
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        with process_group(cfg), unreadable_images_named(cfg):
            yield
    except KeyboardInterrupt as stop:
        if not any(folder.glob('*.pth')):
            raise type(stop)('there is no checkpoint yet') from None
        raise type(stop)(f'--resume continues from the last checkpoint in {cfg.work_dir}') from None
    except Exception as error:
        explained = _explain(error, cfg)
        if explained is None:
            raise
        if is_main_process() and folder.is_dir():
            _clean_up(folder, existing, made)
        raise explained from (None if explained is error else error)
    finally:
        logging.raiseExceptions = raise_in_logging


def _explain(error: Exception, cfg: Config) -> UserError | None:
    if isinstance(error, UserError):
        return error
    if ran_out_of_memory(error):
        return UserError(memory_advice(cfg, error))
    if isinstance(error, RuntimeError) and str(error).startswith('DataLoader worker'):
        reason = str(error).partition('. ')[0]
        return UserError(
            f'{reason}; if memory ran out, use fewer: --cfg-options train_dataloader.num_workers=1'
        )
    if isinstance(error, OSError) and error.errno in DISK_FULL:
        return UserError(
            f'{error.filename or cfg.work_dir}: cannot be written ({error.strerror}); the checkpoints are'
            ' intact: free some space and continue with --resume'
        )
    explained = build_error(error, cfg)
    return UserError(explained) if explained else None


def _clean_up(folder: Path, existing: Collection[Path], made: Sequence[Path]) -> None:
    """Remove the log of a run that stopped before its first checkpoint, and the folders created for it."""
    new = [path for path in folder.iterdir() if path not in existing]
    if any(path.suffix == '.pth' for path in new):
        return
    for path in new:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
    for path in made:
        if any(path.iterdir()):
            return
        path.rmdir()


def network_of(runner: Runner) -> nn.Module:
    """The model itself, without the wrappers for distributed runs and test-time augmentation."""
    model = runner.model
    while is_model_wrapper(model) or isinstance(model, BaseTTAModel):
        model = model.module
    return model


def log_start(runner: Runner, cfg: Config, labels: Sequence[LabelReport], warnings: Sequence[str]) -> None:
    """Log the classes, the content of label maps, and warnings."""
    if classes := classes_of(cfg):
        runner.logger.info(f'{len(classes)} classes: {shorten(classes, CLASSES_NAMED)}')
    for report in labels:
        runner.logger.info(report.summary())
        warnings = [*warnings, *(f'{report.folder}: {warning.what}' for warning in report.warnings)]
    for warning in warnings:
        runner.logger.warning(warning)
