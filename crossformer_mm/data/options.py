"""Point a config at data of any kind, and make all that depends on its classes agree."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, fields

from mmengine.config import Config

from ..utils.errors import UserError
from .coco_options import coco_datasets, read_coco_classes, set_coco_classes
from .datasets import LOADERS, check_present, dataset_meta, datasets_of, join_data_root, set_num_classes
from .label_options import map_datasets, read_label_classes, set_labels

_OTHER_FORMATS = (
    'point elsewhere with --cfg-options train_dataloader.dataset.data_root=DIR'
    ' val_dataloader.dataset.data_root=DIR test_dataloader.dataset.data_root=DIR'
)


@dataclass(frozen=True)
class DataOptions:
    """Where the data lies and, of label maps, what they mean; None leaves the config's own.

    Attributes:
        data_root: What the other paths are relative to.
        train_ann: COCO's annotation file, or the folder of label maps.
        val_ann: The same for validation and testing.
        train_images: The folder of images.
        val_images: The same for validation and testing.
        classes: A file with a name a line, or a count; for label maps alone, like the following.
        ignore_label: The value of unlabelled pixels.
        reduce_zero_label: Whether 0 is unlabelled and the first class is 1.
    """

    data_root: str | None = None
    train_ann: str | None = None
    val_ann: str | None = None
    train_images: str | None = None
    val_images: str | None = None
    classes: str | None = None
    ignore_label: int | None = None
    reduce_zero_label: bool | None = None


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


def data_options(options: argparse.Namespace) -> DataOptions:
    """What of :func:`add_data_options` says where the data lies.

    Args:
        options: What a tool parsed.

    Returns:
        The options by themselves.
    """
    return DataOptions(**{field.name: getattr(options, field.name) for field in fields(DataOptions)})


def set_data_paths(cfg: Config, options: DataOptions) -> None:
    """Set where the config's datasets lie, and what the values of label maps mean.

    Args:
        cfg: The config, changed in place.
        options: What is set; the files for validation serve for testing too.

    Raises:
        UserError: An option does not fit the kind of data that the config reads, or makes no sense.
    """
    _check_kind(cfg, options)
    for loader in LOADERS:
        train = loader.startswith('train')
        annotations = options.train_ann if train else options.val_ann
        images = options.train_images if train else options.val_images
        for dataset in [*coco_datasets(cfg, loader), *map_datasets(cfg, loader)]:
            if options.data_root is not None:
                dataset.data_root = options.data_root
        for dataset in coco_datasets(cfg, loader):
            if annotations is not None:
                dataset.ann_file = annotations
            if images is not None:
                dataset.data_prefix = {'img': images}
        for dataset in map_datasets(cfg, loader):
            if annotations is not None:
                dataset.data_prefix.seg_map_path = annotations
            if images is not None:
                dataset.data_prefix.img_path = images
    set_labels(cfg, options.classes, options.ignore_label, options.reduce_zero_label)


def read_classes(cfg: Config, loaders: Sequence[str], objects: bool = True) -> tuple[str, ...] | None:
    """Check the data that a run reads, and find its classes; the config is not changed.

    Args:
        cfg: The config of the run.
        loaders: The data loaders that the run uses; their files must exist and be valid. The content of label
            maps is checked separately by ``check_labels``, which takes longer.
        objects: Whether the run needs annotations; a prediction for COCO's test server does not.

    Returns:
        The class names, or None if the data are neither COCO's nor label maps.

    Raises:
        UserError: Files or folders are missing or invalid, or the annotation files disagree on the classes.
    """
    if any(coco_datasets(cfg, *loaders)):
        return read_coco_classes(cfg, loaders, objects)
    if any(map_datasets(cfg, *loaders)):
        return read_label_classes(cfg, loaders, objects)
    _check_folders(cfg, loaders)
    return None


def set_classes(cfg: Config, classes: tuple[str, ...] | None) -> None:
    """Set everything in a config that depends on the classes; no file is read.

    Args:
        cfg: The config, changed in place: datasets, evaluators, and the heads' ``num_classes``.
        classes: What :func:`read_classes` returned; None changes nothing.
    """
    if classes is None:
        return
    set_coco_classes(cfg, classes)
    set_num_classes(cfg.model, len(classes))


def apply_dataset_classes(
    cfg: Config, loaders: Sequence[str], objects: bool = True
) -> tuple[str, ...] | None:
    """:func:`read_classes`, then :func:`set_classes`."""
    classes = read_classes(cfg, loaders, objects)
    set_classes(cfg, classes)
    return classes


def classes_of(cfg: Config) -> tuple[str, ...]:
    """The class names that a run's config was given.

    Args:
        cfg: The config of a run.

    Returns:
        The names; none where the data says none.
    """
    datasets = [*coco_datasets(cfg, *LOADERS), *map_datasets(cfg, *LOADERS)]
    return tuple(dataset_meta(cfg, datasets[0]).get('classes', ())) if datasets else ()


def _check_kind(cfg: Config, options: DataOptions) -> None:
    """An option that nothing would read is an error, not silence."""
    coco, maps = any(coco_datasets(cfg, *LOADERS)), any(map_datasets(cfg, *LOADERS))
    of_maps = (options.classes, options.ignore_label, options.reduce_zero_label)
    if coco and of_maps != (None, None, None):
        raise UserError(
            '--classes, --ignore-label and --reduce-zero-label are for label maps, and this config reads'
            " COCO's annotations, which name their classes"
        )
    if options != DataOptions() and not coco and not maps:
        raise UserError(
            '--data-root, --train-ann and their like are for COCO-format data and label maps, and'
            f' {cfg.filename} reads neither; {_OTHER_FORMATS}'
        )


def _check_folders(cfg: Config, loaders: Sequence[str]) -> None:
    """What other formats hold is the toolbox's to read; that their folders are there is checked before."""
    folders = [
        join_data_root(dataset, folder)
        for dataset in datasets_of(cfg, *loaders)
        for folder in dataset.get('data_prefix', {}).values()
        if folder
    ]
    check_present(folders, _OTHER_FORMATS)
