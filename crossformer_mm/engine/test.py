"""``crossformer test``: evaluate a checkpoint or an exported file."""

import argparse
from collections.abc import Callable
from typing import NamedTuple

from mmengine.config import Config, ConfigDict
from mmengine.runner import Runner

from ..checkpoint.load import load_model
from ..checkpoint.meta import dataset_meta_of, trained_without_exif
from ..checkpoint.reader import open_checkpoint
from ..checkpoint.resume import install_reader
from ..data.class_splits import OTHER_CHOICE
from ..data.classes import classes_of
from ..data.datasets import class_datasets, datasets_of, map_datasets, without_annotations
from ..data.exif import other_than_in_training
from ..deploy.model import SUFFIX
from ..utils.errors import UserError
from ..utils.text import shorten
from .distributed import sync_bn_warnings
from .exported_model import is_exported, open_exported
from .outputs import LOADERS, list_results, prepare_images, set_outputs
from .runner import (
    CLASSES_NAMED,
    add_run_options,
    apply_data,
    network_of,
    read_labels,
    run_config,
    running,
)


def evaluation_parser() -> argparse.ArgumentParser:
    """The options of the command."""
    parser = argparse.ArgumentParser(description='Evaluate a checkpoint, or an exported file, with MMEngine.')
    add_run_options(parser)
    parser.add_argument('checkpoint', help=f'the weights to evaluate, or an exported file, {SUFFIX}')
    parser.add_argument(
        '--out',
        metavar='PATH',
        help='detection: NAME.json writes NAME.bbox.json and NAME.segm.json in COCO format;'
        ' segmentation: a folder for one label map per image (PNG, with the values of the annotations);'
        ' classification: NAME.json with the best classes of each image and the scores of each class',
    )
    parser.add_argument(
        '--format-only',
        action='store_true',
        help='write the files of --out without evaluating; needs no ground truth',
    )
    parser.add_argument(
        '--plots',
        metavar='DIR',
        help='draw the confusion matrix, precision-recall curves or the scores of each class, and the surest'
        ' mistakes of a classifier (PNG)',
    )
    parser.add_argument(
        '--tta',
        action='store_true',
        help='test with and without flipping; segmentation: at several scales as well',
    )
    parser.add_argument(
        '--split', choices=['val', 'test'], help='the split of --data-root to test on (val if there is one)'
    )
    parser.add_argument('--show-dir', metavar='DIR', help='draw predictions next to the ground truth')
    return parser


def evaluate(options: argparse.Namespace) -> dict[str, float]:
    """Evaluate a checkpoint or an exported file.

    Args:
        options: The options parsed by :func:`evaluation_parser`.

    Returns:
        The evaluator's numbers by name.

    Raises:
        UserError: An option, the config, the data or the checkpoint is invalid.
    """
    install_reader()
    cfg = evaluation_config(options)
    tested = _open_file(cfg, options) if is_exported(options) else _open_weights(options)
    with running(cfg, training=False) as run:
        run.data = apply_data(cfg, LOADERS, not options.format_only, tested.classes, options.source)
        check_classes(cfg, options.checkpoint, tested.classes)
        labels = [] if options.format_only else read_labels(cfg, LOADERS)
        warnings = [*other_than_in_training(cfg, tested.ignores_exif), *sync_bn_warnings(cfg)]
        runner = run.build(labels, warnings)
        tested.use(runner)
        prepare_images(runner, options)
        numbers = runner.test()
        list_results(runner, options)
        for what, folder in (('plots', options.plots), ('pictures', options.show_dir)):
            if folder:
                runner.logger.info(f'{what}: written to {folder}')
        return numbers


class _Tested(NamedTuple):
    """What is evaluated."""

    classes: tuple[str, ...]
    """Its classes; empty if it names none."""
    ignores_exif: bool | None
    """Whether it was trained on images that were not turned; None if it is not known."""
    use: Callable[[Runner], None]
    """Lets a runner test it."""


def _open_weights(options: argparse.Namespace) -> _Tested:
    checkpoint = open_checkpoint(options.checkpoint)
    classes = dataset_meta_of(checkpoint).get('classes', ())
    return _Tested(
        classes, trained_without_exif(checkpoint), lambda runner: load_model(network_of(runner), checkpoint)
    )


def _open_file(cfg: Config, options: argparse.Namespace) -> _Tested:
    model = open_exported(cfg, options)
    hooks = cfg.get('custom_hooks') or ()  # without the one that averages weights: it copies the model
    cfg.custom_hooks = [hook for hook in hooks if not str(hook['type']).endswith('EMAHook')]

    def use(runner: Runner) -> None:
        runner.model = model
        runner.logger.info(model.summary())

    return _Tested(tuple(model.file.classes), model.file.ignore_exif, use)


def evaluation_config(options: argparse.Namespace) -> Config:
    """The config of an evaluation, with all options applied; the data has not been read yet.

    Args:
        options: The options parsed by :func:`evaluation_parser`.

    Returns:
        The config, without the checkpoint, since mmengine's own loading ignores missing tensors.

    Raises:
        UserError: The config or an option is invalid.
    """
    cfg = run_config(options, LOADERS)
    set_outputs(cfg, options)
    cfg.load_from, cfg.resume = None, False
    cfg.model.backbone.init_cfg = None
    if options.tta:
        set_test_time_augmentation(cfg)
    if options.format_only:
        for dataset in map_datasets(cfg, *LOADERS):
            dataset.pipeline = without_annotations(dataset.pipeline)
    return cfg


def set_test_time_augmentation(cfg: Config) -> None:
    """Test several versions of each image, such as the flipped one, by the config's ``tta_pipeline``.

    Args:
        cfg: The config, changed in place: the model becomes the ``module`` of its ``tta_model``.

    Raises:
        UserError: The config has no such pipeline.
    """
    if not cfg.get('tta_pipeline') or not cfg.get('tta_model'):
        raise UserError(
            f'--tta: {cfg.filename} has no tta_pipeline and tta_model; the configs of segmentors and'
            ' classifiers have them'
        )
    for dataset in datasets_of(cfg, *LOADERS):
        if 'pipeline' in dataset:
            dataset.pipeline = cfg.tta_pipeline
    cfg.model = ConfigDict(**cfg.tta_model, module=cfg.model)


def check_classes(cfg: Config, path: str, trained: tuple[str, ...]) -> None:
    """Check that a model was trained on the classes of the data that it is tested on.

    Args:
        cfg: The config of the run.
        path: The checkpoint or the exported file, for the message.
        trained: Its classes; one without class names passes.

    Raises:
        UserError: The classes differ.
    """
    tested = classes_of(cfg)
    if trained and tested and trained != tested:
        folders = any(class_datasets(cfg, *LOADERS))  # which the checkpoint numbers, unless the config does
        other = (
            'give the matching data with --data-root or --val-ann, and the class names of label maps with'
            ' --classes'
        )
        raise UserError(
            f'{path} was trained on other classes ({shorten(trained, CLASSES_NAMED)})'
            f' than the data has ({shorten(tested, CLASSES_NAMED)}); {OTHER_CHOICE if folders else other}'
        )
