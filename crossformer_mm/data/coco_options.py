"""Point a config at COCO data, and make all that depends on its classes agree.

The class names come from the annotation file. The datasets, the evaluators, the visualiser (which takes
names and colours from the dataset) and the ``num_classes`` of every head follow from them.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

from mmengine.config import Config, ConfigDict

from ..utils.errors import UserError
from .coco import CocoFile, check_images, read_coco
from .datasets import (
    LOADERS,
    check_present,
    dataset_class_name,
    datasets_of,
    join_data_root,
    palette,
)

_WHERE_ELSE = (
    'point elsewhere with --data-root DIR (laid out like COCO:'
    ' annotations/instances_train2017.json, instances_val2017.json, train2017/, val2017/),'
    ' --train-ann FILE, --val-ann FILE, --train-images DIR, --val-images DIR'
)


def read_coco_classes(cfg: Config, loaders: Sequence[str], objects: bool = True) -> tuple[str, ...]:
    """Check the annotations that a run reads, and find their classes.

    Args:
        cfg: The config of the run.
        loaders: The data loaders that the run uses; their files must exist and be sound.
        objects: Whether the run needs annotations, which a prediction for COCO's server does not.

    Returns:
        The class names.

    Raises:
        UserError: Files or folders are missing or not sound, or the annotation files disagree on the classes.
    """
    datasets = list(coco_datasets(cfg, *loaders))
    wanted = [path for dataset in datasets for path in (annotation_path(dataset), image_folder(dataset))]
    check_present(wanted, _WHERE_ELSE, Path.exists)
    masks = 'mask_head' in cfg.model.get('roi_head', {})
    paths = dict.fromkeys(map(annotation_path, datasets))
    files = {path: read_coco(path, masks, objects) for path in paths}
    for dataset in datasets:
        check_images(files[annotation_path(dataset)], image_folder(dataset))
    return _common_classes(list(files.values()))


def coco_datasets(cfg: Config, *loaders: str) -> Iterator[ConfigDict]:
    """Find the COCO datasets of data loaders, in wrappers such as ``RepeatDataset`` too.

    Args:
        cfg: The config.
        *loaders: Of ``LOADERS``.

    Yields:
        The datasets' own configs, to read or to change.
    """
    for dataset in datasets_of(cfg, *loaders):
        if dataset_class_name(dataset) == 'CocoDataset':
            yield dataset


def coco_evaluators(cfg: Config, split: str) -> list[ConfigDict]:
    """Find the evaluators that read an annotation file.

    Args:
        cfg: The config.
        split: ``'val'`` or ``'test'``.

    Returns:
        The evaluators' own configs, to read or to change.
    """
    evaluators = cfg.get(f'{split}_evaluator') or []
    evaluators = [evaluators] if isinstance(evaluators, dict) else evaluators
    return [evaluator for evaluator in evaluators if 'ann_file' in evaluator]


def annotation_path(dataset: ConfigDict) -> str:
    """The annotation file that a dataset reads, with its root.

    Args:
        dataset: A COCO dataset's config.

    Returns:
        The joined path.
    """
    return join_data_root(dataset, dataset.ann_file)


def image_folder(dataset: ConfigDict) -> str:
    """The folder that a dataset's image names are relative to, with its root.

    Args:
        dataset: A COCO dataset's config.

    Returns:
        The joined path.
    """
    return join_data_root(dataset, dataset.get('data_prefix', {}).get('img', ''))


def _common_classes(files: list[CocoFile]) -> tuple[str, ...]:
    """The classes, if all files have the same in the same order, which is the order of labels."""
    first = files[0]
    for other in files[1:]:
        if other.classes != first.classes:
            different = sorted(set(first.classes) ^ set(other.classes))
            how = f'"{different[0]}" is in one of them alone' if different else 'their order differs'
            raise UserError(
                f'{first.path} and {other.path} do not list the same categories: {how};'
                ' write the same "categories" into both'
            )
    return first.classes


def set_coco_classes(cfg: Config, classes: tuple[str, ...]) -> None:
    """Give COCO datasets their classes, and the evaluators the annotation files of the datasets.

    Args:
        cfg: The config, changed in place.
        classes: The class names in the order of labels.
    """
    for dataset in coco_datasets(cfg, *LOADERS):
        dataset.metainfo = {'classes': classes, 'palette': palette(len(classes))}
    for split in ('val', 'test'):
        paths = [annotation_path(dataset) for dataset in coco_datasets(cfg, f'{split}_dataloader')]
        for evaluator in coco_evaluators(cfg, split):
            if len(paths) == 1:
                evaluator.ann_file = paths[0]
