"""``crossformer test``: evaluate a checkpoint."""

import argparse

from mmengine.config import Config, ConfigDict

from ..checkpoint.load import load_model
from ..checkpoint.meta import dataset_meta_of
from ..checkpoint.reader import Checkpoint, open_checkpoint
from ..checkpoint.resume import install_reader
from ..data.class_splits import OTHER_CHOICE
from ..data.classes import classes_of
from ..data.datasets import class_datasets, datasets_of, map_datasets, without_annotations
from ..data.exif import other_than_in_training
from ..utils.errors import UserError
from ..utils.text import shorten
from .distributed import sync_bn_warnings
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
    parser = argparse.ArgumentParser(description='Evaluate a checkpoint with MMEngine.')
    add_run_options(parser)
    parser.add_argument('checkpoint', help='the weights to evaluate')
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
    """Evaluate a checkpoint.

    Args:
        options: The options parsed by :func:`evaluation_parser`.

    Returns:
        The evaluator's numbers by name.

    Raises:
        UserError: An option, the config, the data or the checkpoint is invalid.
    """
    install_reader()
    cfg = evaluation_config(options)
    checkpoint = open_checkpoint(options.checkpoint)
    with running(cfg, training=False) as run:
        trained = dataset_meta_of(checkpoint).get('classes', ())
        run.data = apply_data(cfg, LOADERS, not options.format_only, trained, options.source)
        check_classes(cfg, checkpoint)
        labels = [] if options.format_only else read_labels(cfg, LOADERS)
        warnings = [*other_than_in_training(cfg, checkpoint), *sync_bn_warnings(cfg)]
        runner = run.build(labels, warnings)
        load_model(network_of(runner), checkpoint)
        prepare_images(runner, options)
        numbers = runner.test()
        list_results(runner, options)
        for what, folder in (('plots', options.plots), ('pictures', options.show_dir)):
            if folder:
                runner.logger.info(f'{what}: written to {folder}')
        return numbers


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


def check_classes(cfg: Config, checkpoint: Checkpoint) -> None:
    """Check that a checkpoint was trained on the classes of the data that it is tested on.

    Args:
        cfg: The config of the run.
        checkpoint: The checkpoint; one without class names passes.

    Raises:
        UserError: The classes differ.
    """
    trained = dataset_meta_of(checkpoint).get('classes')
    tested = classes_of(cfg)
    if trained and tested and trained != tested:
        folders = any(class_datasets(cfg, *LOADERS))  # which the checkpoint numbers, unless the config does
        other = (
            'give the matching data with --data-root or --val-ann, and the class names of label maps with'
            ' --classes'
        )
        raise UserError(
            f'{checkpoint.path} was trained on other classes ({shorten(trained, CLASSES_NAMED)})'
            f' than the data has ({shorten(tested, CLASSES_NAMED)}); {OTHER_CHOICE if folders else other}'
        )
