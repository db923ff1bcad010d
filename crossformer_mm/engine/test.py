"""``crossformer test``: evaluate a checkpoint."""

import argparse
import os
from pathlib import Path

from mmengine.config import Config, ConfigDict

from ..checkpoint.load import load_model
from ..checkpoint.meta import dataset_meta_of
from ..checkpoint.reader import Checkpoint, open_checkpoint
from ..checkpoint.resume import install_reader
from ..data.classes import classes_of
from ..data.datasets import coco_evaluators, join_data_root, map_datasets, without_annotations
from ..utils.errors import UserError
from ..utils.files import check_folder
from ..utils.text import shorten
from .distributed import sync_bn_warnings
from .runner import (
    CLASSES_NAMED,
    add_run_options,
    apply_data,
    network_of,
    read_labels,
    run_config,
    running,
)

LOADERS = ('test_dataloader',)


def evaluation_parser() -> argparse.ArgumentParser:
    """The options of the command."""
    parser = argparse.ArgumentParser(description='Evaluate a checkpoint with MMEngine.')
    add_run_options(parser)
    parser.add_argument('checkpoint', help='the weights to evaluate')
    parser.add_argument(
        '--out',
        metavar='PATH',
        help='detection: NAME.json writes NAME.bbox.json and NAME.segm.json in COCO format;'
        ' segmentation: a folder for one label map per image (PNG, with the values of the annotations)',
    )
    parser.add_argument(
        '--format-only',
        action='store_true',
        help='write the files of --out without evaluating; needs no ground truth',
    )
    parser.add_argument(
        '--plots',
        metavar='DIR',
        help='draw the confusion matrix, and precision-recall curves or the IoU of each class (PNG)',
    )
    parser.add_argument(
        '--tta', action='store_true', help='segmentation: test at several scales, with and without flipping'
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
        run.data = apply_data(cfg, LOADERS, annotated=not options.format_only)
        check_classes(cfg, checkpoint)
        labels = [] if options.format_only else read_labels(cfg, LOADERS)
        warnings = sync_bn_warnings(cfg)
        runner = run.build(labels, warnings)
        load_model(network_of(runner), checkpoint)
        return runner.test()


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
    datasets = list(map_datasets(cfg, *LOADERS))
    _check_outputs(options, label_maps=bool(datasets))
    cfg.load_from, cfg.resume = None, False
    cfg.model.backbone.init_cfg = None
    if options.tta:
        set_test_time_augmentation(cfg)
    if datasets:
        _set_segmentation_outputs(cfg, options)
    else:
        _set_detection_outputs(cfg, options)
    return cfg


def set_test_time_augmentation(cfg: Config) -> None:
    """Test each image at several scales, with and without flipping, by the config's ``tta_pipeline``.

    Args:
        cfg: The config, changed in place: the model becomes the ``module`` of its ``tta_model``.

    Raises:
        UserError: The config has no such pipeline.
    """
    if not cfg.get('tta_pipeline') or not cfg.get('tta_model'):
        raise UserError(
            f'--tta: {cfg.filename} has no tta_pipeline and tta_model; the segmentation configs have them'
        )
    for dataset in map_datasets(cfg, *LOADERS):
        dataset.pipeline = cfg.tta_pipeline
    cfg.model = ConfigDict(**cfg.tta_model, module=cfg.model)


def _check_outputs(options: argparse.Namespace, label_maps: bool) -> None:
    """Refuse options that would otherwise fail only after prediction on the whole dataset."""
    if options.format_only and not options.out:
        raise UserError(f'--format-only needs --out {"DIR" if label_maps else "NAME.json"}')
    if options.format_only and options.plots:
        raise UserError('--plots needs an evaluation, which --format-only skips; use only one of them')
    if options.out and label_maps:
        if options.out.endswith('.json'):
            raise UserError(f'--out {options.out}: is a file; label maps need a folder')
        check_folder('--out', options.out)
    elif options.out:
        if options.out.endswith('/') or Path(options.out).is_dir():
            raise UserError(f'--out {options.out}: is a folder; give a file name, such as results.json')
        check_folder('--out', Path(options.out).parent)
    for option, folder in (('--show-dir', options.show_dir), ('--plots', options.plots)):
        if folder:
            check_folder(option, folder)


def _set_detection_outputs(cfg: Config, options: argparse.Namespace) -> None:
    if options.show_dir:
        # mmdet would join a relative folder with the previous result at every batch
        folder = str(Path(options.show_dir).absolute())
        cfg.default_hooks.visualization.update(draw=True, test_out_dir=folder)
    for evaluator in coco_evaluators(cfg, 'test'):
        if options.out:
            evaluator.outfile_prefix = options.out.removesuffix('.json')
        if options.format_only:
            evaluator.format_only = True
        if options.plots and evaluator.type != 'CocoReport':
            raise UserError(f'--plots needs the evaluator CocoReport; the config has {evaluator.type}')
        if options.plots:
            evaluator.plots_dir = options.plots


def _set_segmentation_outputs(cfg: Config, options: argparse.Namespace) -> None:
    datasets = list(map_datasets(cfg, *LOADERS))
    written = {Path(path).resolve() for path in (options.out, options.show_dir) if path}
    for dataset in datasets:
        for folder in dataset.data_prefix.values():
            if Path(join_data_root(dataset, folder)).resolve() in written:
                raise UserError(f'{join_data_root(dataset, folder)} contains the data; choose another folder')
    folders = [Path(join_data_root(dataset, dataset.data_prefix.img_path)).absolute() for dataset in datasets]
    image_dir = os.path.commonpath(folders)
    if options.out or options.plots:
        evaluator = cfg.test_evaluator
        if not isinstance(evaluator, dict) or evaluator.type != 'SegmentationReport':
            raise UserError('--out and --plots need the evaluator SegmentationReport; the config has another')
        evaluator.update(image_dir=image_dir, out_dir=options.out, plots_dir=options.plots)
        evaluator.format_only = options.format_only
    if options.format_only:
        for dataset in datasets:
            dataset.pipeline = without_annotations(dataset.pipeline)
    if options.show_dir:
        hook = {'type': 'SegmentPicturesHook', 'folder': options.show_dir, 'image_dir': image_dir}
        cfg.custom_hooks = [*cfg.get('custom_hooks', []), hook]


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
        raise UserError(
            f'{checkpoint.path} was trained on other classes ({shorten(trained, CLASSES_NAMED)})'
            f' than the data has ({shorten(tested, CLASSES_NAMED)}); give the matching data with'
            ' --data-root or --val-ann, and the class names of label maps with --classes'
        )
