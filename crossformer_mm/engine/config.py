"""From a config file and the options of a command line to the config of a run."""

import argparse
import difflib
import inspect
import io
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config, ConfigDict, DictAction
from mmengine.runner import Runner

from ..data.coco_options import coco_evaluators
from ..data.datasets import LOADERS, join_data_root, without_annotations
from ..data.label_options import map_datasets
from ..data.options import DataOptions, apply_dataset_classes, set_data_paths
from ..utils.errors import UserError
from ..utils.files import check_folder
from .config_files import CONFIG_HELP, find_config
from .settings import check_groups

RESUMABLE_LOOPS = {'EpochBasedTrainLoop': 'ResumableEpochLoop', 'IterBasedTrainLoop': 'ResumableIterLoop'}
# The variable that a launcher numbers its processes by, and what starts it.
_LAUNCHERS = {
    'pytorch': ('RANK', 'torchrun or tools/dist_train.sh'),
    'slurm': ('SLURM_PROCID', 'srun'),
    'mpi': ('OMPI_COMM_WORLD_LOCAL_RANK', 'mpirun'),
}
# Settings that MMEngine reads from the config beside its Runner's own arguments.
_RUNNER_EXTRAS = (
    *('activation_checkpointing', 'backend_args', 'compile', 'custom_imports'),
    *('efficient_conv_bn_eval', 'find_unused_parameters', 'model_wrapper_cfg', 'sync_bn'),
)


def load_config(path: str | Path, cfg_options: Sequence[str] = ()) -> Config:
    """Read a config file and merge settings into it.

    Args:
        path: The config file, or the name of one of this project's own.
        cfg_options: Settings as ``KEY=VALUE``, in mmengine's notation: ``a.b.0.c=(1,2)``.

    Returns:
        The config.

    Raises:
        UserError: The file is missing or does not parse, or a setting does not fit it.
    """
    path = find_config(path)
    try:
        with quiet_imports():
            cfg = Config.fromfile(path)
    except Exception as error:  # a config is a program: anything can go wrong in it
        raise UserError(f'{path} is no working config: {_one_line(error)}') from error
    settings: dict[str, Any] = {}
    for option in cfg_options:
        settings.update(_parse_setting(cfg, option))
    try:
        cfg.merge_from_dict(settings)
    except (KeyError, TypeError, IndexError, AssertionError) as error:
        words = ' '.join(cfg_options)
        raise UserError(f'--cfg-options {words}: does not fit the config: {_one_line(error)}') from error
    return cfg


@contextmanager
def quiet_imports() -> Iterator[None]:
    """Keep quiet, while toolboxes are imported, about optional parts of theirs that nothing here uses."""
    with warnings.catch_warnings(), redirect_stdout(io.StringIO()) as said:
        warnings.filterwarnings('ignore', message='faster_coco_eval is not installed')
        yield
    for line in said.getvalue().splitlines():
        if not line.startswith('Could not import OneDL'):
            print(line)


def _one_line(error: Exception) -> str:
    text = str(error).strip().partition('\n')[0]
    return f'{type(error).__name__}: {text}'


def _parse_setting(cfg: Config, option: str) -> dict[str, Any]:
    """One ``KEY=VALUE``."""
    parsed = argparse.Namespace()
    try:
        DictAction([], 'settings')(None, parsed, [option])
    except (ValueError, AssertionError) as error:
        raise UserError(
            f'--cfg-options {option}: not KEY=VALUE with balanced brackets, such as train_cfg.max_epochs=24'
        ) from error
    _check_is_read(cfg, option, option.partition('=')[0].partition('.')[0])
    return parsed.settings


def _check_is_read(cfg: Config, option: str, name: str) -> None:
    """A setting that no part of a run reads is an error, not silence."""
    known = {*inspect.signature(Runner).parameters, *_RUNNER_EXTRAS}
    if name in known:
        return
    if name in cfg:
        raise UserError(
            f'--cfg-options {option}: {name} is a variable that the config file itself uses, so changing it'
            ' here would change nothing; set the part that was made from it (train_dataloader.…)'
        )
    close = difflib.get_close_matches(name, known, n=1)
    hint = f'did you mean {close[0]}?' if close else f'{cfg.filename} has no such part'
    raise UserError(f'--cfg-options {option}: nothing is called {name}; {hint}')


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that training and testing share.

    Args:
        parser: The tool's parser, which gets them.
    """
    parser.add_argument('config', help=CONFIG_HELP)
    parser.add_argument('--work-dir', help='where logs and results go (work_dirs/CONFIG)')
    add_data_options(parser)
    parser.add_argument('--launcher', choices=['none', 'pytorch', 'slurm', 'mpi'], default='none')
    # torchrun sets the variable instead; older launchers pass the option, in either spelling.
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0, help=argparse.SUPPRESS)


def add_data_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that say where the data lies, and ``--cfg-options``.

    Args:
        parser: The tool's parser, which gets them.
    """
    data = parser.add_argument_group(
        'data', 'COCO-format data for detection, folders of images and of label maps for segmentation'
    )
    data.add_argument('--data-root', metavar='DIR', help='its folder, laid out like COCO or ADE20K')
    data.add_argument(
        '--train-ann',
        metavar='PATH',
        help='from the data root: for detection the annotation file, which names the classes;'
        ' for segmentation the folder of label maps, named like the images',
    )
    data.add_argument('--val-ann', metavar='PATH', help='the same for validation and testing')
    data.add_argument('--train-images', metavar='DIR', help='images, from the data root')
    data.add_argument('--val-images', metavar='DIR', help='the same for validation and testing')
    labels = parser.add_argument_group('label maps', 'for segmentation; the same in training and testing')
    labels.add_argument(
        '--classes', metavar='FILE|N', help='names, one a line in the order of labels, or how many'
    )
    labels.add_argument(
        '--ignore-label', type=int, metavar='N', help='the value of unlabelled pixels, ignored like 255'
    )
    labels.add_argument(
        '--reduce-zero-label',
        action=argparse.BooleanOptionalAction,
        help='0 is unlabelled and the first class is 1 (off with --classes, on for ADE20K itself)',
    )
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        default=[],
        metavar='KEY=VALUE',
        help='settings to change in the config, e.g. train_cfg.max_epochs=24',
    )


def data_options(options: argparse.Namespace) -> DataOptions:
    """What of :func:`add_data_options` says where the data lies.

    Args:
        options: What a tool parsed.

    Returns:
        The options by themselves.
    """
    return DataOptions(**{field.name: getattr(options, field.name) for field in fields(DataOptions)})


def training_config(options: argparse.Namespace) -> Config:
    """Everything a training needs, checked before anything is written.

    Args:
        options: What ``tools/train.py`` parsed.

    Returns:
        The config to build a Runner from.

    Raises:
        UserError: The config, an option or the data does not work.
    """
    _check_numbers(options)
    cfg = _common_config(options, ('train_dataloader', 'val_dataloader'))
    make_resumable(cfg)
    stop_on_nan(cfg, options.stop_on_nan)
    if cfg.launcher != 'none':
        cfg.custom_hooks = [*cfg.get('custom_hooks', []), {'type': 'AgreementHook'}]
    if options.batch_size:
        cfg.train_dataloader.batch_size = options.batch_size
    if options.accumulate:
        cfg.optim_wrapper.accumulative_counts = options.accumulate
    if options.clip_grad:
        cfg.optim_wrapper.clip_grad = {'max_norm': options.clip_grad}
    if options.with_cp:
        cfg.model.backbone.with_cp = True
    if options.amp:
        set_mixed_precision(cfg, options.amp)
    if options.auto_scale_lr:
        set_auto_scale_lr(cfg)
    if options.pretrained:
        set_pretrained(cfg, options.pretrained)
    if options.resume:
        set_resume(cfg, options.resume)
    return cfg


def _check_numbers(options: argparse.Namespace) -> None:
    """Refuse what would fail, or do nothing, once the run is there."""
    for name, least in (('batch_size', 1), ('accumulate', 1), ('stop_on_nan', 0)):
        number = getattr(options, name)
        if number is not None and number < least:
            raise UserError(f'--{name.replace("_", "-")} {number}: at least {least}')
    if options.clip_grad is not None and not 0 < options.clip_grad < float('inf'):
        raise UserError(f'--clip-grad {options.clip_grad}: a number above 0, such as 1')


def evaluation_config(options: argparse.Namespace) -> Config:
    """Everything an evaluation needs, checked before anything is written.

    Args:
        options: What ``tools/test.py`` parsed.

    Returns:
        The config to build a Runner from. It does not name the checkpoint: mmengine's own loading does not
        mind tensors that are missing.

    Raises:
        UserError: The config, an option or the data does not work.
    """
    cfg = _common_config(options, ('test_dataloader',), objects=not options.format_only)
    folders = [
        join_data_root(data, data.data_prefix.img_path) for data in map_datasets(cfg, 'test_dataloader')
    ]
    _check_outputs(options, label_maps=bool(folders))
    cfg.load_from, cfg.resume = None, False
    cfg.model.backbone.init_cfg = None
    if options.tta:
        set_test_time_augmentation(cfg)
    if folders:
        common = os.path.commonpath([Path(folder).absolute() for folder in folders])
        _set_segmentation_outputs(cfg, options, common)
        return cfg
    if options.show_dir:
        # mmdet joins a relative folder with the last one again at every batch
        folder = str(Path(options.show_dir).absolute())
        cfg.default_hooks.visualization.update(draw=True, test_out_dir=folder)
    for evaluator in coco_evaluators(cfg, 'test'):
        _set_outputs(evaluator, options)
    return cfg


def set_test_time_augmentation(cfg: Config) -> None:
    """Test each image at several scales, flipped and not, as the config's ``tta_pipeline`` says.

    Args:
        cfg: The config, changed in place: the model becomes the ``module`` of its ``tta_model``.

    Raises:
        UserError: The config does not say how.
    """
    if not cfg.get('tta_pipeline') or not cfg.get('tta_model'):
        raise UserError(
            f'--tta: {cfg.filename} has no tta_pipeline and tta_model; the segmentation configs have them'
        )
    for dataset in map_datasets(cfg, 'test_dataloader'):
        dataset.pipeline = cfg.tta_pipeline
    cfg.model = ConfigDict(**cfg.tta_model, module=cfg.model)


def _check_outputs(options: argparse.Namespace, label_maps: bool) -> None:
    """Refuse what would fail after the whole data set has been predicted."""
    if options.format_only and not options.out:
        where = 'DIR' if label_maps else 'NAME.json'
        raise UserError(f'--format-only needs --out {where}, where the results go')
    if options.format_only and options.plots:
        raise UserError('--plots draws an evaluation, which --format-only leaves out; take one of them')
    if options.out and label_maps:
        if options.out.endswith('.json'):
            raise UserError(f'--out {options.out}: label maps go into a folder; give its name')
        check_folder('--out', options.out)
    elif options.out:
        if options.out.endswith('/') or Path(options.out).is_dir():
            raise UserError(f'--out {options.out}: is a folder; give a name in it, such as results.json')
        check_folder('--out', Path(options.out).parent)
    for option, folder in (('--show-dir', options.show_dir), ('--plots', options.plots)):
        if folder:
            check_folder(option, folder)


def _set_segmentation_outputs(cfg: Config, options: argparse.Namespace, image_dir: str) -> None:
    datasets = list(map_datasets(cfg, 'test_dataloader'))
    written = {Path(place).resolve() for place in (options.out, options.show_dir) if place}
    for place in (
        join_data_root(dataset, folder) for dataset in datasets for folder in dataset.data_prefix.values()
    ):
        if Path(place).resolve() in written:
            raise UserError(f'{place} holds the data; choose another place for what is written')
    if options.out or options.plots:
        evaluator = cfg.test_evaluator
        if not isinstance(evaluator, dict) or evaluator.type != 'SegmentationReport':
            raise UserError(
                '--out and --plots need the evaluator SegmentationReport, and the config has another'
            )
        evaluator.update(image_dir=image_dir, out_dir=options.out, plots_dir=options.plots)
        evaluator.format_only = options.format_only
    if options.format_only:
        for dataset in datasets:
            dataset.pipeline = without_annotations(dataset.pipeline)
    if options.show_dir:
        hook = {'type': 'SegmentPicturesHook', 'folder': options.show_dir, 'image_dir': image_dir}
        cfg.custom_hooks = [*cfg.get('custom_hooks', []), hook]


def _set_outputs(evaluator: ConfigDict, options: argparse.Namespace) -> None:
    if options.out:
        evaluator.outfile_prefix = options.out.removesuffix('.json')
    if options.format_only:
        evaluator.format_only = True
    if options.plots:
        if evaluator.type != 'CocoReport':
            raise UserError(f'--plots needs the evaluator CocoReport; the config has {evaluator.type}')
        evaluator.plots_dir = options.plots


def _common_config(options: argparse.Namespace, loaders: Sequence[str], objects: bool = True) -> Config:
    cfg = load_config(options.config, options.cfg_options)
    cfg.work_dir = (
        options.work_dir or cfg.get('work_dir') or str(Path('work_dirs', Path(options.config).stem))
    )
    check_folder('--work-dir', cfg.work_dir)
    _check_parts(cfg)
    _check_loaders(cfg, loaders)
    check_groups(cfg, [loader.removesuffix('_dataloader') for loader in loaders])
    set_data_paths(cfg, data_options(options))
    apply_dataset_classes(cfg, loaders, objects)
    allow_no_workers(cfg)
    check_launcher(options.launcher)
    cfg.launcher = options.launcher
    os.environ.setdefault('LOCAL_RANK', str(options.local_rank))
    if options.launcher != 'none' and not torch.cuda.is_available():
        distribute_on_cpu(cfg)
    return cfg


def _check_parts(cfg: Config) -> None:
    if not isinstance(cfg.get('model'), dict) or 'backbone' not in cfg.model:
        raise UserError(
            f'{cfg.filename} has no model with a backbone; give a config such as "crossformer configs" lists'
        )


def _check_loaders(cfg: Config, loaders: Sequence[str]) -> None:
    for name in loaders:
        loader = cfg.get(name) or {}
        for key, least in (('batch_size', 1), ('num_workers', 0)):
            if loader.get(key, least) < least:
                raise UserError(f'{name}.{key}={loader[key]}: at least {least}')


def allow_no_workers(cfg: Config) -> None:
    """Loaders without worker processes cannot keep them alive, which the toolboxes' configs ask for.

    Args:
        cfg: The config, changed in place.
    """
    for loader in LOADERS:
        if cfg.get(loader) and not cfg[loader].get('num_workers'):
            cfg[loader].persistent_workers = False


def check_launcher(launcher: str) -> None:
    """Check that a run that is to be one of several processes was started as such.

    Args:
        launcher: ``'none'``, ``'pytorch'``, ``'slurm'`` or ``'mpi'``.

    Raises:
        UserError: What the launcher tells its processes by is not in the environment.
    """
    if launcher == 'none':
        return
    variable, start = _LAUNCHERS[launcher]
    if variable not in os.environ:
        raise UserError(
            f'--launcher {launcher}: this process is not one of several; start it through {start}'
        )


def is_first_process(launcher: str) -> bool:
    """Whether this process does what one of several has to do, before they have met.

    Args:
        launcher: ``'none'``, ``'pytorch'``, ``'slurm'`` or ``'mpi'``.

    Returns:
        True for one process; with MPI, for one a machine.
    """
    return launcher == 'none' or os.environ[_LAUNCHERS[launcher][0]] == '0'


def distribute_on_cpu(cfg: Config) -> None:
    """Let processes without GPUs share the work: MMEngine wraps the model for a GPU of a number.

    Args:
        cfg: The config, changed in place.

    Raises:
        UserError: A launcher that MMEngine starts on GPUs alone.
    """
    if cfg.launcher != 'pytorch':
        raise UserError(f'--launcher {cfg.launcher} needs GPUs; on CPUs, take --launcher pytorch')
    if not cfg.get('model_wrapper_cfg'):
        cfg.model_wrapper_cfg = {
            'type': 'MMDistributedDataParallel',
            'device_ids': None,
            'broadcast_buffers': False,
            'find_unused_parameters': cfg.get('find_unused_parameters', False),
        }


def make_resumable(cfg: Config) -> None:
    """Put the loop and checkpoint hook of this package in place of mmengine's own.

    Args:
        cfg: The config, changed in place; loops and hooks of other kinds stay.
    """
    loop = cfg.train_cfg
    if 'type' not in loop:
        loop.type = 'EpochBasedTrainLoop' if loop.pop('by_epoch') else 'IterBasedTrainLoop'
    loop.type = RESUMABLE_LOOPS.get(loop.type, loop.type)
    cfg.default_hooks = {
        'checkpoint': {'type': 'CheckpointHook', 'interval': 1},
        **cfg.get('default_hooks', {}),
    }
    checkpoints = cfg.default_hooks.checkpoint
    if checkpoints and checkpoints.type == 'CheckpointHook':
        checkpoints.type = 'AtomicCheckpointHook'


def stop_on_nan(cfg: Config, steps: int) -> None:
    """Stop the run at losses that are NaN or infinite.

    Args:
        cfg: The config, changed in place.
        steps: After how many in a row; 0 for never.
    """
    if steps:
        cfg.custom_hooks = [*cfg.get('custom_hooks', []), {'type': 'FiniteLossHook', 'patience': steps}]


def set_mixed_precision(cfg: Config, dtype: str) -> None:
    """Train in half precision.

    Args:
        cfg: The config, changed in place.
        dtype: ``'bfloat16'``, or ``'float16'``, which scales the loss.

    Raises:
        UserError: float16 without a GPU.
    """
    if dtype == 'bfloat16':
        cfg.optim_wrapper.type = 'BFloat16OptimWrapper'
        return
    if not torch.cuda.is_available():
        raise UserError('--amp float16 needs a GPU, and none is here; --amp bfloat16 does not')
    cfg.optim_wrapper.update(type='AmpOptimWrapper', dtype='float16', loss_scale='dynamic')


def set_auto_scale_lr(cfg: Config) -> None:
    """Scale the learning rate with the number of images an update.

    Args:
        cfg: The config, changed in place.

    Raises:
        UserError: The config does not say which batch its learning rate is for.
    """
    if 'base_batch_size' not in cfg.get('auto_scale_lr', {}):
        raise UserError(
            '--auto-scale-lr: the config does not say which batch its learning rate is for;'
            ' add --cfg-options auto_scale_lr.base_batch_size=16'
        )
    cfg.auto_scale_lr.enable = True
    # mmengine counts the images of one iteration, of which an update may have several
    cfg.auto_scale_lr.base_batch_size /= cfg.optim_wrapper.get('accumulative_counts', 1)


def set_pretrained(cfg: Config, path: str) -> None:
    """Start the backbone from a file of weights.

    Args:
        cfg: The config, changed in place.
        path: A checkpoint.

    Raises:
        UserError: There is no such file.
    """
    _check_file('--pretrained', path)
    cfg.model.backbone.init_cfg = {'type': 'Pretrained', 'checkpoint': path}


def set_resume(cfg: Config, source: str) -> None:
    """Go on with an earlier run.

    Args:
        cfg: The config, changed in place.
        source: A checkpoint, or ``'auto'`` for the latest in the work folder, if there is one.

    Raises:
        UserError: There is no such file.
    """
    cfg.resume = True
    cfg.load_from = None
    if source != 'auto':
        _check_file('--resume', source)
        cfg.load_from = source


def _check_file(option: str, path: str) -> None:
    if not Path(path).is_file():
        raise UserError(f'{option} {path}: no such file')
