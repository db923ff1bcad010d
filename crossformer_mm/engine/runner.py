"""Shared parts of training and testing: common options, the config of a run, and its error messages."""

import argparse
import logging
import shutil
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.dist import is_main_process
from mmengine.hooks import Hook, LoggerHook
from mmengine.logging import MMLogger
from mmengine.model import BaseTTAModel, is_model_wrapper
from mmengine.optim import OptimWrapper
from mmengine.runner import Runner
from mmengine.visualization import Visualizer
from torch import nn

from ..checkpoint.reader import Checkpoint
from ..data.classes import RunData, classes_of, read_data, set_classes, set_copies
from ..data.data_root import DataSource
from ..data.datasets import LOADERS, class_datasets, input_paths, map_datasets
from ..data.exif import exif_warnings
from ..data.label_check import LabelReport
from ..data.label_folders import check_labels
from ..data.loading import unreadable_images_named
from ..data.options import add_data_options, data_options, set_data_paths
from ..utils.errors import UserError, ran_out_of_memory
from ..utils.files import MACHINE_ERRORS, check_folder, write_error
from ..utils.locks import locked
from ..utils.outputs import check_place, is_output, write_output
from ..utils.text import escape_mathtext, printable, printable_lines, shorten
from .build_errors import build_error
from .config import check_has_model, load_config
from .config_options import CONFIG_HELP, add_cfg_options
from .distributed import LAUNCHERS, on_first_process, process_group, set_launcher
from .memory import memory_advice
from .shared_memory import (
    FOLDER,
    MORE,
    copy_if_shared_memory_is_full,
    shared_memory_is_full,
    shared_memory_warnings,
)

SEEDS = 2**31  # numpy takes twice as many, but worker processes add their number
COPIES = 'repaired_annotations'  # folder in the work folder for repaired annotation files
DRAWN = 'split'  # folder in the work folder for a drawn validation set, which only a training writes
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
        options: The parsed options of the command; ``source`` is added, what ``--data-root`` has, for
            :func:`apply_data`.
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
    wanted = {loader for loader in loaders if cfg.get(loader)}
    if getattr(options, 'no_val', False) or getattr(options, 'val_fraction', None):
        wanted.discard('val_dataloader')
    source = set_data_paths(cfg, data_options(options), wanted, getattr(options, 'split', None))
    options.source = source
    # Images of COCO data are listed, and may be around the work folder; all files of other data are data.
    folders = any(map_datasets(cfg, *LOADERS)) or any(class_datasets(cfg, *LOADERS))
    check_place('--work-dir', cfg.work_dir, input_paths(cfg), around=False, inside=folders)
    if source and source.converted:
        check_place('--work-dir', source.converted, source.inputs(), around=False)
    for loader in LOADERS:  # persistent workers are invalid without worker processes
        if cfg.get(loader) and not cfg[loader].get('num_workers'):
            cfg[loader].persistent_workers = False
    set_launcher(cfg, options.launcher, options.local_rank)
    return cfg


def _check_parts(cfg: Config, splits: Sequence[str]) -> None:
    """Check settings for which MMEngine would fail much later, or with the whole config in the message."""
    check_has_model(cfg)
    for key in ('runner_type', 'strategy') if 'train' in splits else ():
        if cfg.get(key) not in (None, 'Runner'):
            raise UserError(
                f'{key}={cfg[key]!r:.60}: "crossformer train" has only MMEngine\'s Runner; FSDP works with'
                ' its FlexibleRunner in a script of your own'
            )
    seed = (cfg.get('randomness') or {}).get('seed')
    if seed is not None and not (isinstance(seed, int) and 0 <= seed < SEEDS):
        raise UserError(f'randomness.seed={seed!r:.60}: must be an integer from 0 to {SEEDS - 1}')
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


def apply_data(
    cfg: Config,
    loaders: Sequence[str],
    annotated: bool = True,
    trained: tuple[str, ...] | None = None,
    source: DataSource | None = None,
) -> RunData:
    """Check the files of a run's data, only in the first process, and apply its classes in all of them.

    Data in other formats than COCO's are converted before, beside the work folder. Annotation files that had
    to be repaired are copied into the work folder, and the run reads the copies.

    Args:
        cfg: The config of the run, changed in place.
        loaders: The data loaders that the run uses.
        annotated: Whether the run needs annotations.
        trained: For a test, the classes of the checkpoint; empty if it has none.
        source: What was found in the folder of the data.

    Raises:
        UserError: The data is missing or invalid.
    """

    def read() -> RunData:
        if source:
            source.convert([loader for loader in loaders if cfg.get(loader)])
        return read_data(cfg, loaders, annotated, Path(cfg.work_dir, COPIES), trained)

    data = on_first_process(read)
    if source:
        data.notes.insert(0, str(source.layout))
        data.warnings.extend(source.warnings)
    set_copies(cfg, data.copies)
    set_classes(cfg, data.classes)
    return data


def read_labels(cfg: Config, loaders: Sequence[str]) -> list[LabelReport]:
    """Check the content of a run's label maps, only in the first process; returns one report per folder.

    Raises:
        UserError: A label map is missing or invalid.
    """
    return on_first_process(lambda: check_labels(cfg, loaders))


@dataclass
class Run:
    """A training or an evaluation while it is prepared.

    Attributes:
        cfg: Its config.
        training: Whether it is a training.
        data: What is known of its data, once it is read.
        start: The complete model that a new training with this config starts from.
        checkpoint: Where it resumes; kept open until it has been loaded.
        weights: What a new training starts from; kept open as well.
        runner: MMEngine's runner, once it is built.
        started: Whether the first step has begun, with everything built and loaded.
    """

    cfg: Config
    training: bool
    data: RunData | None = None
    start: str | None = None
    checkpoint: Checkpoint | None = None
    weights: Checkpoint | None = None
    runner: Runner | None = None
    started: bool = False

    def build(self, labels: Sequence[LabelReport], warnings: Sequence[str]) -> Runner:
        """Build the runner, and log the classes, what label maps hold, and what is easily overlooked."""
        self.runner = runner = _Runner.from_cfg(self.cfg)
        runner.register_hook(_StartHook(self))
        if not is_main_process():  # MMEngine's hook writes metrics and copies of logs in every process
            runner.hooks[:] = [hook for hook in runner.hooks if not isinstance(hook, LoggerHook)]
        runner.logger.addFilter(_escape_record)
        for handler in runner.logger.handlers:  # class names may have characters that this locale has not
            if isinstance(handler, logging.FileHandler):
                handler.stream.reconfigure(encoding='utf-8', errors='backslashreplace')
        if classes := classes_of(self.cfg):
            runner.logger.info(f'{len(classes)} classes: {shorten(classes, CLASSES_NAMED)}')
        if any((self.cfg.get(loader) or {}).get('num_workers') for loader in LOADERS):
            warnings = [*warnings, *shared_memory_warnings()]
        for note in self.data.notes:
            runner.logger.info(note)
        warnings = [*warnings, *self.data.warnings]
        for report in labels:
            runner.logger.info(report.summary())
            warnings = [*warnings, *(f'{report.folder}: {warning.line()}' for warning in report.warnings)]
        for warning in warnings:
            runner.logger.warning(printable(warning))
        return runner


class _Runner(Runner):
    def dump_config(self) -> None:
        """Nothing: only a training writes its config, when it starts."""

    def scale_lr(self, optim_wrapper: OptimWrapper, auto_scale_lr: dict[str, Any] | None = None) -> None:
        """Scale the learning rate with the images of an update, which may take several iterations."""
        if base := (auto_scale_lr or {}).get('base_batch_size'):  # MMEngine counts those of one iteration
            counts = self.cfg.optim_wrapper.get('accumulative_counts', 1)
            auto_scale_lr = {**auto_scale_lr, 'base_batch_size': base / counts}
        super().scale_lr(optim_wrapper, auto_scale_lr)


def _escape_record(record: logging.LogRecord) -> bool:
    """Escape text from files in a record of the log, also in those of the toolboxes."""
    record.msg, record.args = printable_lines(record.getMessage()), None
    return True


class _StartHook(Hook):
    priority = 'VERY_HIGH'

    def __init__(self, run: Run) -> None:
        self.run = run

    def before_train(self, runner: Runner) -> None:
        self.run.checkpoint = self.run.weights = None
        if is_main_process():
            _write_config(runner, self.run.start)
        self._start(runner, 'train', 'val')

    def before_test(self, runner: Runner) -> None:
        self._start(runner, 'test')

    def _start(self, runner: Runner, *splits: str) -> None:
        self.run.started = True
        escape_drawn_names(runner.visualizer)
        _warn_of_exif(runner, *splits)


def _warn_of_exif(runner: Runner, *splits: str) -> None:
    loops = [(split, getattr(runner, f'{split}_loop')) for split in splits if is_main_process()]
    for split, loop in loops:
        if loop is not None:
            setting = runner.cfg[f'{split}_dataloader']
            for warning in exif_warnings(loop.dataloader.dataset, setting):
                runner.logger.warning(warning)


def escape_drawn_names(visualizer: Visualizer) -> None:
    """Escape the class names that a toolbox's visualizer draws with matplotlib."""
    meta = visualizer.dataset_meta or {}
    if classes := meta.get('classes'):
        visualizer.dataset_meta = {**meta, 'classes': tuple(map(escape_mathtext, classes))}


def _write_config(runner: Runner, start: str | None) -> None:
    """Write a training's config into its work folder, unless the config there is the user's or the input.

    With it, a new training starts from ``start``, also if this one resumed.
    """
    source = Path(runner.cfg.filename)
    path = Path(runner.work_dir, source.name)
    if path.exists() and (path.resolve() == source.resolve() or not is_output(path)):
        full = Path(runner.work_dir, runner.timestamp, 'vis_data', 'config.py')
        runner.logger.info(f'{path} is left as it is; the config of this run is {full}')
    else:
        cfg = deepcopy(runner.cfg)
        cfg.resume, cfg.load_from = False, start
        text = cfg.dump()
        write_output(path, lambda part: part.write_text(text, 'utf-8'))


@contextmanager
def running(cfg: Config, training: bool) -> Iterator[Run]:
    """Join the other processes of a run, and explain in one line what stops it, if the user can fix it.

    What a run has written to its work folder is removed again if it stops before its first step.

    Args:
        cfg: The config of the run.
        training: Whether it is a training.

    Yields:
        The run, to be built.

    Raises:
        UserError: The run failed; the message names the remedy.
    """
    raise_in_logging, logging.raiseExceptions = logging.raiseExceptions, False  # report a full disk once
    run, work_folder = Run(cfg, training), _WorkFolder(cfg)
    copy_if_shared_memory_is_full()
    try:
        with process_group(cfg), unreadable_images_named(cfg), ExitStack() as locks:
            if training:
                work_lock = locked(Path(cfg.work_dir), '--work-dir')
                on_first_process(lambda: locks.enter_context(work_lock))
            yield run
    except KeyboardInterrupt as stop:
        if not training:
            raise
        if not _has_checkpoint(run):
            raise type(stop)('there is no checkpoint yet') from None
        raise type(stop)(f'--resume continues from the last checkpoint in {cfg.work_dir}') from None
    except Exception as error:
        explained = _explain(error, run)
        if explained is None:
            raise
        if not run.started and is_main_process():
            work_folder.restore(run)
        raise explained from (None if explained is error else error)
    finally:
        logging.raiseExceptions = raise_in_logging


def _has_checkpoint(run: Run) -> bool:
    """Whether a training has a checkpoint of its own; others in its folder may be of an earlier one."""
    saved = run.runner and run.runner.message_hub.get_info('last_ckpt')
    files = (path for folder in checkpoint_folders(run.cfg) for path in folder.glob('*.pth'))
    return bool(saved or run.cfg.get('resume')) and any(files)


def checkpoint_folders(cfg: Config, work_dir: Path | None = None) -> list[Path]:
    """Where a training writes checkpoints: the work folder, and the checkpoint hook's ``out_dir``.

    Args:
        cfg: The config of the run.
        work_dir: Another work folder.
    """
    folders = [work_dir or Path(cfg.work_dir)]
    if out_dir := (cfg.default_hooks.get('checkpoint') or {}).get('out_dir'):
        folders.append(Path(out_dir, folders[0].name))
    return folders


def _explain(error: Exception, run: Run) -> UserError | None:
    if isinstance(error, UserError):
        return error
    if isinstance(error, BrokenPipeError):  # of the output after "| head", which the command handles
        return None
    loader = 'train_dataloader' if run.training else 'test_dataloader'
    if ran_out_of_memory(error):
        reason = f'out of memory ({error})'
        advice = f'{reason}; use fewer worker processes ({loader}.num_workers) or smaller images'
        return UserError(memory_advice(run.cfg, error) if run.training else advice)
    if shared_memory_is_full(error):
        return UserError(f'shared memory ({FOLDER}) is full; {MORE}, or use {loader}.num_workers=0')
    if isinstance(error, RuntimeError) and str(error).startswith('DataLoader worker'):
        reason = str(error).partition('. ')[0]
        return UserError(f'{reason}; if memory ran out, use fewer: --cfg-options {loader}.num_workers=1')
    if isinstance(error, OSError) and error.errno in MACHINE_ERRORS:
        saved = run.training and run.started
        intact = '; the checkpoints are intact: continue with --resume' if saved else ''
        return UserError(f'{write_error(error, error.filename or run.cfg.work_dir)}{intact}')
    explained = None if run.started else build_error(error, run.cfg)
    return UserError(explained) if explained else None


class _WorkFolder:
    """What a work folder contains before a run, to undo what a run wrote that could not start."""

    def __init__(self, cfg: Config) -> None:
        self.folder = Path(cfg.work_dir)
        self.existing = {*self.folder.iterdir()} if self.folder.is_dir() else set()
        self.old_copies = {path.absolute() for path in self.folder.glob(f'{COPIES}/*')}
        self.old_drawn = {*self.folder.glob(f'{DRAWN}/*')}
        self.made = [path for path in (self.folder, *self.folder.parents) if not path.exists()]

    def restore(self, run: Run) -> None:
        """Remove the log folder, named after the time, and the copies and divisions of annotations."""
        handlers = MMLogger.get_current_instance().handlers  # known even if the runner could not be built
        files = [
            Path(handler.baseFilename) for handler in handlers if isinstance(handler, logging.FileHandler)
        ]
        for folder in {self.folder / file.parent.name for file in files} - self.existing:
            shutil.rmtree(folder, ignore_errors=True)
        for path in {Path(copy) for copy in run.data.copies.values()} - self.old_copies if run.data else ():
            path.unlink(missing_ok=True)
        for path in {*self.folder.glob(f'{DRAWN}/*')} - self.old_drawn if run.training else ():
            path.unlink(missing_ok=True)
        made = {*self.folder.glob('[0-9]*_[0-9]*'), self.folder / COPIES, self.folder / DRAWN}
        for path in made - self.existing:
            with suppress(OSError):  # not empty: of another run
                path.rmdir()
        with suppress(OSError):
            for path in self.made:
                path.rmdir()


def config_to_test(cfg: Config) -> Path:
    """The config to test a training's checkpoints with: the one in its work folder has its data filled in."""
    written = Path(cfg.work_dir, Path(cfg.filename).name)
    return written if is_output(written) else Path(cfg.filename)


def network_of(runner: Runner) -> nn.Module:
    """The model itself, without the wrappers for distributed runs and test-time augmentation."""
    model = runner.model
    while is_model_wrapper(model) or isinstance(model, BaseTTAModel):
        model = model.module
    return model
