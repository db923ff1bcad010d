"""The data options: their definitions, and how they change a config."""

import argparse
from collections.abc import Collection
from dataclasses import dataclass, fields, replace
from pathlib import Path

from mmengine.config import Config, ConfigDict

from ..utils.errors import UserError
from .data_root import DataSource, converted_data, find_data
from .datasets import (
    LOADERS,
    OWN_MAPS,
    annotation_path,
    class_datasets,
    coco_datasets,
    dataset_meta,
    dicts_in,
    folders_of,
    map_datasets,
    palette,
    type_name,
)
from .exif import ignore_exif
from .formats.reading import check_names
from .formats.recognise import FORMATS
from .images import IGNORE_EXIF_HELP
from .label_check import IGNORED

# Datasets without a fixed layout or numbering.
_TWO_FOLDERS = ('ADE20KDataset', 'BaseSegDataset', OWN_MAPS)
COCO_ELSEWHERE = (
    'set other paths with --data-root DIR (whose layout is recognised, such as COCO:'
    ' annotations/instances_train2017.json, instances_val2017.json, train2017/, val2017/),'
    ' --train-ann FILE, --val-ann FILE, --train-images DIR, --val-images DIR'
)
MAPS_ELSEWHERE = (
    'set other paths with --data-root DIR (laid out like ADE20K: images/training,'
    ' images/validation, annotations/training, annotations/validation),'
    ' --train-images DIR, --val-images DIR, --train-ann DIR, --val-ann DIR'
)
FOLDERS_ELSEWHERE = (
    'set other paths with --data-root DIR (with train/CLASS/ and val/CLASS/), --train-images DIR,'
    ' --val-images DIR'
)
OTHERS_ELSEWHERE = (
    'set other paths with --cfg-options train_dataloader.dataset.data_root=DIR'
    ' val_dataloader.dataset.data_root=DIR test_dataloader.dataset.data_root=DIR'
)


@dataclass(frozen=True)
class DataOptions:
    """The values of the options of :func:`add_data_options`; None keeps the config's setting."""

    data_root: str | None = None
    train_ann: str | None = None
    val_ann: str | None = None
    train_images: str | None = None
    val_images: str | None = None
    classes: str | None = None
    ignore_label: int | None = None
    reduce_zero_label: bool | None = None
    ignore_exif: bool = False
    format: str | None = None


def add_data_options(parser: argparse.ArgumentParser) -> None:
    """Add the options for the paths of the data and the values of label maps.

    Args:
        parser: The parser of the command.
    """
    data = parser.add_argument_group(
        'data',
        'COCO, YOLO, Pascal VOC or LabelMe data for detection, folders of images and of label maps for'
        ' segmentation, a folder of images per class for classification',
    )
    data.add_argument(
        '--data-root',
        metavar='DIR',
        help='the folder of the data, whose layout is recognised: COCO and its exports, YOLO, Pascal VOC,'
        ' LabelMe; ADE20K, Cityscapes, folders of images and label maps; train/CLASS/ and val/CLASS/',
    )
    data.add_argument(
        '--format', choices=FORMATS, help='what to read if the folder of the data has several formats'
    )
    data.add_argument(
        '--train-ann',
        metavar='PATH',
        help='relative to the data root: for detection, the annotation file, which contains the class names;'
        ' for segmentation, the folder of label maps, named like the images',
    )
    data.add_argument('--val-ann', metavar='PATH', help='the same for validation and testing')
    data.add_argument(
        '--train-images',
        metavar='DIR',
        help='folder of images, or of class folders, relative to the data root',
    )
    data.add_argument('--val-images', metavar='DIR', help='the same for validation and testing')
    data.add_argument('--ignore-exif', action='store_true', help=IGNORE_EXIF_HELP)
    labels = parser.add_argument_group('label maps', 'for segmentation; the same in training and testing')
    labels.add_argument(
        '--classes',
        metavar='FILE|N',
        help='a text file with one class name per line in the order of labels, or the number of classes',
    )
    labels.add_argument(
        '--ignore-label', type=int, metavar='N', help='the value of unlabelled pixels, ignored like 255'
    )
    labels.add_argument(
        '--reduce-zero-label',
        action=argparse.BooleanOptionalAction,
        help='0 is unlabelled and the first class is 1 (default: off with --classes, on for ADE20K)',
    )


def data_options(options: argparse.Namespace) -> DataOptions:
    """The data options among the parsed options of a command."""
    return DataOptions(**{field.name: getattr(options, field.name) for field in fields(DataOptions)})


def set_data_paths(
    cfg: Config, options: DataOptions, wanted: Collection[str] = (), test_split: str | None = None
) -> DataSource | None:
    """Set the paths of the config's datasets, and the meaning of the values in label maps.

    Args:
        cfg: The config, changed in place.
        options: The settings; the paths for validation are also used for testing.
        wanted: The data loaders that the folder of the data must have a split for.
        test_split: What to test on; by default, the validation set.

    Returns:
        What was recognised in the folder of the data, which the config of a training on converted data has
        too; None without it, or with options for the paths in it.

    Raises:
        UserError: An option is not for the kind of data that the config reads, or has an invalid value; or
            the data are not recognised.
    """
    _check_kind(cfg, options)
    if options.ignore_exif:
        ignore_exif(cfg)
    _set_paths(cfg, options)
    names = None if options.classes is None else parse_classes(options.classes)
    source, root, known, trained = None, options.data_root, None, _own_classes(cfg)
    if root is None:
        root, known = converted_data(cfg)
    if root is not None and _paths(options) == (None,) * 4:
        source = find_data(cfg, root, options.format or known, wanted, test_split, bool(names))
    option = f'--format {options.format}' if options.format else test_split and f'--split {test_split}'
    if source is None and option:
        raise UserError(f'{option}: needs --data-root DIR with a dataset, and no option for the paths in it')
    found = source.classes if source else None
    _set_labels(cfg, options, names or (None if found == trained else found))
    return source


def _own_classes(cfg: Config) -> tuple[str, ...] | None:
    """The classes of a config that was trained on label maps in a layout of their own.

    For the same classes, the meaning of the values in label maps stays as it was in that training.
    """
    datasets = list(map_datasets(cfg, *LOADERS))
    if any(type_name(dataset) != OWN_MAPS for dataset in datasets):
        return None
    classes = {tuple(dataset_meta(cfg, dataset).get('classes') or ()) for dataset in datasets}
    return classes.pop() if len(classes) == 1 else None


def _set_paths(cfg: Config, options: DataOptions) -> None:
    """Set the folders and files that options name, and the folder of all data."""
    for loader in LOADERS:
        train = loader.startswith('train')
        annotations = options.train_ann if train else options.val_ann
        images = options.train_images if train else options.val_images
        coco, maps = list(coco_datasets(cfg, loader)), list(map_datasets(cfg, loader))
        folders = list(class_datasets(cfg, loader))
        every = [*coco, *maps, *folders]
        before = _sources(every)
        for dataset in every:
            if options.data_root is not None:
                dataset.data_root = options.data_root
        for dataset in coco:
            if annotations is not None:
                dataset.ann_file = annotations
            if images is not None:
                dataset.data_prefix = {'img': images}
        for dataset in maps:
            if annotations is not None:
                dataset.data_prefix.seg_map_path = annotations
            if images is not None:
                dataset.data_prefix.img_path = images
                if type_name(dataset) == OWN_MAPS:  # its list is of the images in another folder
                    dataset.ann_file = ''
        for dataset in folders:
            if images is not None:
                dataset.data_prefix, dataset.ann_file = {'img_path': images}, ''
        if len(_sources(every)) < len(before):
            raise UserError(
                f'{loader} combines {len(every)} datasets, and --data-root, --train-ann etc. would give'
                ' several of them the same paths; set the paths of each in the config, or with'
                f' --cfg-options {loader}.dataset.datasets.0.data_root=DIR'
            )


def _paths(options: DataOptions) -> tuple[str | None, ...]:
    """The options for paths in the folder of the data."""
    return options.train_ann, options.val_ann, options.train_images, options.val_images


def _check_kind(cfg: Config, options: DataOptions) -> None:
    """Raise a :class:`UserError` for options that would have no effect."""
    coco, maps = any(coco_datasets(cfg, *LOADERS)), any(map_datasets(cfg, *LOADERS))
    folders = any(class_datasets(cfg, *LOADERS))
    of_maps = (options.classes, options.ignore_label, options.reduce_zero_label)
    if (coco or folders) and of_maps != (None, None, None):
        reads = (
            "COCO's annotations, which name their classes"
            if coco
            else 'class folders, named after the classes'
        )
        raise UserError(
            f'--classes, --ignore-label and --reduce-zero-label are for label maps; this config reads {reads}'
        )
    if folders and (options.train_ann, options.val_ann) != (None, None):
        raise UserError(
            '--train-ann and --val-ann are for annotations; this config reads class folders: give'
            ' --train-images and --val-images'
        )
    if replace(options, ignore_exif=False) != DataOptions() and not coco and not maps and not folders:
        raise UserError(
            '--data-root, --train-ann etc. are for COCO-format data, label maps and class folders;'
            f' {cfg.filename} reads none of these; {OTHERS_ELSEWHERE}'
        )


def _sources(datasets: list[ConfigDict]) -> set[tuple[str, ...]]:
    """The distinct sources of data that datasets read."""
    return {(annotation_path(dataset), *folders_of(dataset)) for dataset in datasets}


def _set_labels(cfg: Config, options: DataOptions, names: tuple[str, ...] | None) -> None:
    """Set the meaning of the values in label maps.

    Unlabelled pixels are 255 once a file is loaded, whatever their value in the file, so that heads, losses,
    metrics and padding keep their defaults.
    """
    ignore, reduce = options.ignore_label, options.reduce_zero_label
    if (names, ignore, reduce) == (None, None, None):
        return
    if ignore is not None and not 0 <= ignore <= IGNORED:
        raise UserError(f'--ignore-label {ignore}: label maps hold values from 0 to {IGNORED}')
    if names is not None:
        reduce = bool(reduce)
    for dataset in map_datasets(cfg, *LOADERS):
        _set_dataset(cfg, dataset, names, ignore, reduce)
    for name in ('model', *LOADERS, 'tta_pipeline', 'val_evaluator', 'test_evaluator'):
        for path, part in dicts_in(cfg.get(name), name):
            _check_ignored(path, part)
            if reduce is not None and isinstance(part.get('reduce_zero_label'), bool):
                part['reduce_zero_label'] = (
                    reduce  # configs of the toolboxes repeat the dataset's setting in pipelines
                )


def _set_dataset(
    cfg: Config, dataset: ConfigDict, names: tuple[str, ...] | None, ignore: int | None, reduce: bool | None
) -> None:
    use_own_maps(cfg, dataset, '--classes, --ignore-label and --reduce-zero-label', reduce)
    if names is not None:
        dataset.metainfo = {'classes': names, 'palette': palette(len(names))}
    if ignore is not None:
        dataset.ignore_label = ignore


def use_own_maps(cfg: Config, dataset: ConfigDict, option: str, reduce: bool | None = None) -> None:
    """Let ``LabelMapDataset`` read two folders of images and label maps.

    Args:
        cfg: The config.
        dataset: One of its :func:`map_datasets`, changed in place.
        option: The option that needs it, for the message.
        reduce: Another ``reduce_zero_label``.

    Raises:
        UserError: The dataset is of another kind.
    """
    kind = type_name(dataset)
    if kind not in _TWO_FOLDERS or (dataset.get('ann_file') and kind != OWN_MAPS):
        raise UserError(
            f'{option}: for two folders of images and label maps; {kind} has a fixed layout and numbering'
        )
    for suffix in ('img_suffix', 'seg_map_suffix'):
        dataset.pop(suffix, None)
    meta = dataset_meta(cfg, dataset)
    dataset.metainfo = {key: meta[key] for key in ('classes', 'palette') if key in meta}
    if reduce is None:
        reduce = dataset.get('reduce_zero_label', kind == 'ADE20KDataset')
    dataset.reduce_zero_label = reduce
    dataset.type = OWN_MAPS


def _check_ignored(path: str, part: dict) -> None:
    for key in ('ignore_index', 'seg_pad_val'):
        value = part.get(key)
        if isinstance(value, int) and value != IGNORED:
            raise UserError(
                f'{path}.{key}={value}: with the options for label maps, unlabelled pixels are {IGNORED} once'
                f' loaded; remove {key}, and give their value in the files with --ignore-label'
            )


def parse_classes(word: str) -> tuple[str, ...]:
    """Parse a value of ``--classes``.

    Args:
        word: A text file with one name per line, in the order of labels; or the number of classes.

    Returns:
        The class names; for a number, ``'class 0'`` and so on.

    Raises:
        UserError: The file does not exist, a line is empty or repeated, or there are too few or too many.
    """
    if word.isdecimal() and not Path(word).is_file():
        names = [f'class {i}' for i in range(min(int(word), IGNORED + 1))]
    else:
        try:
            lines = Path(word).read_text('utf-8-sig').rstrip().splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(
                f'--classes {word}: neither a text file with one class name per line nor a number'
            ) from error
        names = [line.strip() for line in lines]
    check_names(names, f'--classes {word}:')
    if not 2 <= len(names) <= IGNORED:
        raise UserError(f'--classes {word}: give 2 to {IGNORED} classes, including the background')
    return tuple(names)
