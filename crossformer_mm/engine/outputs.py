"""What an evaluation writes: results, label maps, pictures and plots."""

import argparse
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.dist import is_main_process
from mmengine.runner import Runner

from ..data.datasets import coco_evaluators, datasets_of, image_folder, input_paths, map_datasets
from ..data.exif import ignores_exif
from ..data.label_files import png_names
from ..evaluation.classification_report import ClassificationReport
from ..evaluation.coco_report import CocoReport
from ..evaluation.picture_hooks import PicturesHook, lowest_score
from ..evaluation.plots import KINDS
from ..evaluation.segmentation_report import SegmentationReport
from ..utils.errors import UserError
from ..utils.files import check_folder
from ..utils.outputs import check_distinct, check_outputs, check_place, is_output, list_output
from .distributed import on_first_process

LOADERS = ('test_dataloader',)


def set_outputs(cfg: Config, options: argparse.Namespace) -> None:
    """Check and apply ``--out``, ``--format-only``, ``--plots`` and ``--show-dir``.

    Args:
        cfg: The config of the evaluation, changed in place.
        options: The options of ``crossformer test``.

    Raises:
        UserError: An option would fail after prediction on the whole dataset, or replace files of the user.
    """
    label_maps, classifier = any(map_datasets(cfg, *LOADERS)), is_classifier(cfg)
    if options.format_only and classifier:
        raise UserError(
            '--format-only is for detections and label maps; "crossformer infer" classifies images without'
            ' ground truth'
        )
    if options.format_only and not options.out:
        raise UserError(f'--format-only needs --out {"DIR" if label_maps else "NAME.json"}')
    if options.format_only and options.plots:
        raise UserError('--plots needs an evaluation, which --format-only skips; use only one of them')
    if options.out and label_maps and options.out.endswith('.json'):
        raise UserError(f'--out {options.out}: is a file; label maps need a folder')
    if options.out and not label_maps and (options.out.endswith('/') or Path(options.out).is_dir()):
        raise UserError(f'--out {options.out}: is a folder; give a file name, such as results.json')
    for option, place in _places(options).items():
        is_file = option == '--out' and not label_maps
        check_folder(option, Path(place).parent if is_file else place)
        check_place(option, place, input_paths(cfg))
    if label_maps:
        _set_report(cfg, options, 'SegmentationReport', out_dir=options.out, format_only=options.format_only)
    elif classifier:
        out = options.out and f'{_prefix(options.out)}.json'
        exif = ignores_exif(cfg.test_dataloader)
        _set_report(cfg, options, 'ClassificationReport', out_file=out, ignore_exif=exif)
    else:
        _set_detection_outputs(cfg, options)
    for option, files in output_files(cfg, options).items():
        check_outputs(option, files)


def is_classifier(cfg: Config) -> bool:
    """Whether a config is of MMPretrain."""
    return cfg.get('default_scope') == 'mmpretrain'


def _places(options: argparse.Namespace) -> dict[str, str]:
    places = {'--out': options.out, '--show-dir': options.show_dir, '--plots': options.plots}
    return {option: place for option, place in places.items() if place}


def _set_detection_outputs(cfg: Config, options: argparse.Namespace) -> None:
    evaluators = coco_evaluators(cfg, 'test')
    if not evaluators and (options.out or options.plots):
        raise UserError(
            '--out and --plots need an evaluator with an ann_file, such as CocoReport; the config has another'
        )
    for evaluator in evaluators:
        if options.out:
            evaluator.outfile_prefix = _prefix(options.out)
        if options.format_only:
            evaluator.format_only = True
        if options.plots and evaluator.type != 'CocoReport':
            raise UserError(f'--plots needs the evaluator CocoReport; the config has {evaluator.type}')
        if options.plots:
            evaluator.plots_dir = options.plots


def _set_report(cfg: Config, options: argparse.Namespace, report: str, **settings: Any) -> None:
    if options.out or options.plots:
        evaluator = cfg.test_evaluator
        if not isinstance(evaluator, dict) or evaluator.type != report:
            raise UserError(f'--out and --plots need the evaluator {report}; the config has another')
        evaluator.update(plots_dir=options.plots, **settings)


def output_files(
    cfg: Config, options: argparse.Namespace, names: Iterable[str] = ()
) -> dict[str, list[Path]]:
    """The files that an evaluation writes, by option.

    Args:
        cfg: The config of the evaluation.
        options: The options of ``crossformer test``.
        names: Names of the images' label maps and pictures.
    """
    places, names = _places(options), list(names)
    files = {option: [Path(place, name) for name in names] for option, place in places.items()}
    plots = SegmentationReport.PLOTS
    if is_classifier(cfg):
        plots = ClassificationReport.PLOTS
        if options.out:
            files['--out'] = [Path(f'{_prefix(options.out)}.json')]
    elif not any(map_datasets(cfg, *LOADERS)):
        metrics = [evaluator.get('metric', list(KINDS)) for evaluator in coco_evaluators(cfg, 'test')]
        kinds = [kind for metric in metrics for kind in ([metric] if isinstance(metric, str) else metric)]
        plots = [name.format(kind) for kind in kinds for name in CocoReport.PLOTS]
        if options.out:
            files['--out'] = [Path(f'{_prefix(options.out)}.{kind}.json') for kind in kinds]
    if options.plots:
        files['--plots'] = [Path(options.plots, name) for name in plots]
    return files


def _prefix(out: str) -> str:
    """The name of a file of results, without kind and suffix."""
    return out.removesuffix('.json')


def prepare_images(runner: Runner, options: argparse.Namespace) -> None:
    """Choose the names of label maps and pictures, check that they are free, and let them be written.

    Args:
        runner: The runner of the evaluation.
        options: The options of ``crossformer test``.

    Raises:
        UserError: A file would replace a file of the user, or one of another option.
    """
    cfg, label_maps = runner.cfg, any(map_datasets(runner.cfg, *LOADERS))
    if not options.show_dir and not (options.out and label_maps):
        return
    dataset = runner.test_dataloader.dataset
    images = [dataset.get_data_info(index)['img_path'] for index in range(len(dataset))]
    parts = [part for part in datasets_of(cfg, *LOADERS) if 'data_prefix' in part]
    folders = [Path(image_folder(part)).absolute() for part in parts]
    names = png_names(images, os.path.commonpath(folders or [Path.cwd()]))

    def check() -> None:
        files = output_files(cfg, options, names.values())
        check_distinct(files)
        for option, paths in files.items():
            check_outputs(option, paths, images)

    on_first_process(check)
    if options.out and label_maps:
        for metric in runner.test_evaluator.metrics:
            metric.names = names
    if options.show_dir:
        runner.register_hook(PicturesHook(options.show_dir, names, lowest_score(cfg)))


def list_results(runner: Runner, options: argparse.Namespace) -> None:
    """List the results that MMDetection's own metric wrote as outputs of this project."""
    if is_main_process():
        for path in output_files(runner.cfg, options).get('--out', ()):
            if path.is_file() and not is_output(path):
                list_output(path)
