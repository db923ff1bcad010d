"""Point a config at COCO data, and make all that depends on its classes agree.

The class names come from the annotation file. The datasets, the evaluators, the visualiser (which takes
names and colours from the dataset) and the ``num_classes`` of every head follow from them.
"""

import colorsys
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmengine.config import Config, ConfigDict

from .coco import CocoFile, check_images, read_coco
from .errors import UserError

LOADERS = ('train_dataloader', 'val_dataloader', 'test_dataloader')
_WHERE_ELSE = (
    'put the data there, or point elsewhere with --data-root DIR (laid out like COCO:'
    ' annotations/instances_train2017.json, instances_val2017.json, train2017/, val2017/),'
    ' --train-ann FILE, --val-ann FILE, --train-images DIR, --val-images DIR'
)
_OTHER_FORMATS = (
    'point elsewhere with --cfg-options train_dataloader.dataset.data_root=DIR'
    ' val_dataloader.dataset.data_root=DIR test_dataloader.dataset.data_root=DIR'
)


@dataclass(frozen=True)
class DataOptions:
    """Where the data lies; None leaves the config's own. Paths are relative to the data root."""

    data_root: str | None = None
    train_ann: str | None = None
    val_ann: str | None = None
    train_images: str | None = None
    val_images: str | None = None


def point_to_data(cfg: Config, options: DataOptions) -> None:
    """Set the folders and annotation files of the config's COCO datasets.

    Args:
        cfg: The config, changed in place.
        options: Where the data lies; the files for validation serve for testing too.

    Raises:
        UserError: The options name a place, and the config reads no COCO annotations.
    """
    if options != DataOptions() and not any(next(coco_datasets(cfg, loader), None) for loader in LOADERS):
        raise UserError(
            '--data-root, --train-ann and their like are for COCO-format data, and this config reads none;'
            f' {_OTHER_FORMATS}'
        )
    for loader in LOADERS:
        train = loader.startswith('train')
        annotations = options.train_ann if train else options.val_ann
        images = options.train_images if train else options.val_images
        for dataset in coco_datasets(cfg, loader):
            if options.data_root is not None:
                dataset.data_root = options.data_root
            if annotations is not None:
                dataset.ann_file = annotations
            if images is not None:
                dataset.data_prefix = {'img': images}


def agree_with_data(cfg: Config, loaders: Sequence[str], objects: bool = True) -> tuple[str, ...] | None:
    """Check the data that a run reads and set everything that depends on its classes.

    Args:
        cfg: The config, changed in place: datasets, evaluators, and the heads' ``num_classes``.
        loaders: The data loaders that the run uses; their files must exist and be sound.
        objects: Whether the run needs annotations, which a prediction for COCO's server does not.

    Returns:
        The class names, or None where no loader reads COCO annotations.

    Raises:
        UserError: Files or folders are missing or not sound, or the annotation files disagree on the classes.
    """
    datasets = [dataset for loader in loaders for dataset in coco_datasets(cfg, loader)]
    if not datasets:
        _check_folders([dataset for loader in loaders for dataset in _datasets(cfg, loader)])
        return None
    _check_present(datasets)
    masks = 'mask_head' in cfg.model.get('roi_head', {})
    paths = dict.fromkeys(map(annotation_path, datasets))
    files = {path: read_coco(path, masks, objects) for path in paths}
    for dataset in datasets:
        check_images(files[annotation_path(dataset)], image_folder(dataset))
    classes = _common_classes(list(files.values()))
    _set_classes(cfg, classes)
    return classes


def coco_datasets(cfg: Config, loader: str) -> Iterator[ConfigDict]:
    """Find the COCO datasets of a data loader, in wrappers such as ``RepeatDataset`` too.

    Args:
        cfg: The config.
        loader: ``'train_dataloader'``, ``'val_dataloader'`` or ``'test_dataloader'``.

    Yields:
        The datasets' own configs, to read or to change.
    """
    for dataset in _datasets(cfg, loader):
        if str(dataset.get('type')).rpartition('.')[2] == 'CocoDataset':
            yield dataset


def _datasets(cfg: Config, loader: str) -> Iterator[ConfigDict]:
    """All datasets of a data loader: wrappers, and what they wrap."""
    waiting = [(cfg.get(loader) or {}).get('dataset')]
    while waiting:
        dataset = waiting.pop(0)
        if dataset is None:
            continue
        yield dataset
        waiting.extend([dataset.get('dataset'), *dataset.get('datasets', [])])


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
    return os.path.join(dataset.get('data_root') or '', dataset.ann_file)  # noqa: PTH118


def image_folder(dataset: ConfigDict) -> str:
    """The folder that a dataset's image names are relative to, with its root.

    Args:
        dataset: A COCO dataset's config.

    Returns:
        The joined path.
    """
    folder = dataset.get('data_prefix', {}).get('img', '')
    return os.path.join(dataset.get('data_root') or '', folder)  # noqa: PTH118


def set_num_classes(model: Any, count: int) -> None:
    """Give every head of a model's config the number of classes.

    Args:
        model: The model's config or a part of it, changed in place; heads may be in lists. An RPN's head
            keeps its own: it tells objects from background.
        count: How many classes there are.
    """
    if isinstance(model, dict):
        if 'num_classes' in model:
            model['num_classes'] = count
        for name, part in model.items():
            if name != 'rpn_head':
                set_num_classes(part, count)
    elif isinstance(model, list | tuple):
        for part in model:
            set_num_classes(part, count)


def palette(count: int) -> list[tuple[int, int, int]]:
    """Colours that are easy to tell apart.

    Args:
        count: How many.

    Returns:
        RGB, 0 to 255; the first are the same for every count.
    """
    golden = 0.618034  # steps of the golden ratio spread hues evenly, however many there are
    colours = (colorsys.hsv_to_rgb(i * golden % 1, 0.85, (0.95, 0.65)[i % 2]) for i in range(count))
    return [tuple(round(255 * channel) for channel in colour) for colour in colours]


def _check_folders(datasets: list[ConfigDict]) -> None:
    """What other formats hold is the toolbox's to read; that their folders are there is checked before."""
    folders = [
        os.path.join(dataset.get('data_root') or '', folder)  # noqa: PTH118
        for dataset in datasets
        for folder in dataset.get('data_prefix', {}).values()
        if folder
    ]
    missing = [folder for folder in dict.fromkeys(folders) if not Path(folder).is_dir()]
    if missing:
        raise UserError(f'no data at {", ".join(missing)}; put the data there, or {_OTHER_FORMATS}')


def _check_present(datasets: list[ConfigDict]) -> None:
    """One message for all that is missing: usually the data is not there at all."""
    wanted = [path for dataset in datasets for path in (annotation_path(dataset), image_folder(dataset))]
    missing = [path for path in dict.fromkeys(wanted) if not Path(path).exists()]
    if missing:
        raise UserError(f'no data at {", ".join(missing)}; {_WHERE_ELSE}')


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


def _set_classes(cfg: Config, classes: tuple[str, ...]) -> None:
    for loader in LOADERS:
        for dataset in coco_datasets(cfg, loader):
            dataset.metainfo = {'classes': classes, 'palette': palette(len(classes))}
    for split in ('val', 'test'):
        paths = [annotation_path(dataset) for dataset in coco_datasets(cfg, f'{split}_dataloader')]
        for evaluator in coco_evaluators(cfg, split):
            if len(paths) == 1:
                evaluator.ann_file = paths[0]
    set_num_classes(cfg.model, len(classes))
