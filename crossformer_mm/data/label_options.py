"""Point a config at images and label maps, and make all that depends on their classes agree.

The class names come from the command line. The datasets, the visualiser (which takes names and colours from
the dataset) and the ``num_classes`` of every head follow from them. Whatever value the files have for
unlabelled pixels, it is 255 once they are loaded: heads, losses, metrics and padding keep their defaults.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmengine.config import Config, ConfigDict
from mmengine.registry import DATASETS

from ..utils.errors import UserError
from .datasets import (
    LOADERS,
    check_present,
    dataset_class_name,
    dataset_meta,
    datasets_of,
    join_data_root,
    palette,
)
from .label_check import IGNORED, LabelReport, LabelRule, inspect_labels
from .label_files import SUFFIXES, Pair, unpaired
from .problems import Problem

_OWN = 'LabelMapDataset'
_PLAIN = ('ADE20KDataset', 'BaseSegDataset', _OWN)  # two folders and nothing else to know
_WHERE_ELSE = (
    'point elsewhere with --data-root DIR (laid out like ADE20K: images/training,'
    ' images/validation, annotations/training, annotations/validation),'
    ' --train-images DIR, --val-images DIR, --train-ann DIR, --val-ann DIR'
)


@dataclass(frozen=True)
class LabelFolder:
    """Images and label maps of a dataset.

    Attributes:
        maps: The folder of label maps.
        pairs: Images and the maps that they need, there or not.
        rule: What the values of the maps mean.
        colours: RGB of each class, 0 to 255.
        suffixes: What the names of label maps end in.
    """

    maps: Path
    pairs: Sequence[Pair]
    rule: LabelRule
    colours: Sequence[Sequence[int]]
    suffixes: str | tuple[str, ...]


def map_datasets(cfg: Config, *loaders: str) -> Iterator[ConfigDict]:
    """Find the datasets of data loaders that read label maps, in wrappers such as ``RepeatDataset`` too.

    Args:
        cfg: The config.
        *loaders: Of ``LOADERS``.

    Yields:
        The datasets' own configs, to read or to change.
    """
    for dataset in datasets_of(cfg, *loaders):
        if 'seg_map_path' in dataset.get('data_prefix', {}):
            yield dataset


def set_labels(
    cfg: Config, classes: str | None, ignore_label: int | None, reduce_zero_label: bool | None
) -> None:
    """Set what the values of the label maps mean, wherever it matters.

    Args:
        cfg: The config, changed in place: datasets, pipelines, heads, losses and evaluators.
        classes: A file with a name a line, or how many there are; None leaves the config's.
        ignore_label: The value of unlabelled pixels beside 255, if any.
        reduce_zero_label: Whether 0 is unlabelled and the first class is 1; None means no where ``classes``
            are given, and otherwise leaves the config's.

    Raises:
        UserError: A value makes no sense, or a dataset has a numbering of its own.
    """
    if (classes, ignore_label, reduce_zero_label) == (None, None, None):
        return
    if ignore_label is not None and not 0 <= ignore_label <= IGNORED:
        raise UserError(f'--ignore-label {ignore_label}: label maps hold values from 0 to {IGNORED}')
    names = None if classes is None else parse_classes(classes)
    reduce = False if names and reduce_zero_label is None else reduce_zero_label
    for dataset in map_datasets(cfg, *LOADERS):
        _set_dataset(cfg, dataset, names, ignore_label, reduce)
    for part in ('model', *LOADERS, 'tta_pipeline', 'val_evaluator', 'test_evaluator'):
        _undo_own_settings(cfg.get(part), reduce)


def parse_classes(word: str) -> tuple[str, ...]:
    """The classes that a word of the command line means.

    Args:
        word: A file with a name a line, in the order of the labels; or a count.

    Returns:
        The names; from a count, numbered ones.

    Raises:
        UserError: There is no such file, its lines are not a name each, or they are too few or too many.
    """
    if Path(word).is_file():
        names = _names_in(word)
        count = len(names)
    elif word.isdecimal():
        count = int(word)
        names = tuple(f'class {i}' for i in range(min(count, IGNORED)))
    else:
        raise UserError(f'--classes {word}: neither a file with a name a line nor a count')
    if count > IGNORED:
        raise UserError(f'--classes {word}: {count} classes; label maps have room for {IGNORED}')
    if count < 2:
        raise UserError(
            f'--classes {word}: {count} class{"es" * (count != 1)} cannot be told apart;'
            ' what is nothing else is a class too: name the background as well'
        )
    return names


def read_label_classes(cfg: Config, loaders: Sequence[str], maps: bool = True) -> tuple[str, ...]:
    """Check the folders that a run reads, and find their classes.

    Args:
        cfg: The config of the run.
        loaders: The data loaders that the run uses; their folders must exist.
        maps: Whether the run needs label maps, which a prediction alone does not.

    Returns:
        The class names.

    Raises:
        UserError: Folders are missing, nothing says what the classes are, or a loss weighs another number of
            them.
    """
    datasets = list(map_datasets(cfg, *loaders))
    folders = [join_data_root(dataset, folder) for dataset in datasets for folder in _folders(dataset, maps)]
    check_present(folders, _WHERE_ELSE)
    classes = dataset_meta(cfg, datasets[0]).get('classes')
    if not classes:
        raise UserError(f'{dataset_class_name(datasets[0])} knows no classes; name them with --classes FILE')
    _check_class_weights(cfg.model, len(classes))
    return tuple(classes)


def check_labels(cfg: Config, loaders: Sequence[str]) -> list[LabelReport]:
    """Read the label maps that a run learns from or is measured by.

    Args:
        cfg: The config of the run.
        loaders: The data loaders that it uses.

    Returns:
        A report a folder; none where the data are of another kind.

    Raises:
        UserError: Something would keep the run from working; the message names the first place.
    """
    reports = []
    for dataset in map_datasets(cfg, *loaders):
        folder = label_folder(cfg, dataset)
        _refuse(unpaired(folder.pairs, folder.maps, folder.suffixes))
        report = inspect_labels(folder.pairs, folder.maps, folder.rule)
        _refuse(report.problems)
        reports.append(report)
    return reports


def _check_class_weights(model: ConfigDict, count: int) -> None:
    """Torch says it in the first step alone, with a traceback, and the work folder is there by then."""
    for head in _listed(model.get('decode_head')) + _listed(model.get('auxiliary_head')):
        for loss in _listed(head.get('loss_decode')):
            weights = loss.get('class_weight')  # also the name of a file; of sigmoids not always a class each
            if isinstance(weights, list | tuple) and len(weights) != count and not loss.get('use_sigmoid'):
                raise UserError(
                    f'class_weight of {loss.type}: {len(weights)} numbers for {count} classes;'
                    ' give each class its own, in the order of labels'
                )


def _listed(part: Any) -> list[Any]:
    return list(part) if isinstance(part, list | tuple) else [part] if part else []


def _refuse(problems: Sequence[Problem]) -> None:
    if problems:
        more = len(problems) - 1
        others = f' (and {more} more problem{"s" * (more > 1)} in these folders)' if more else ''
        raise UserError(f'{problems[0].line()}{others}')


def _folders(dataset: ConfigDict, maps: bool) -> list[str]:
    return list(dataset.data_prefix.values()) if maps else [dataset.data_prefix.img_path]


def _set_dataset(
    cfg: Config,
    dataset: ConfigDict,
    names: tuple[str, ...] | None,
    ignore_label: int | None,
    reduce: bool | None,
) -> None:
    kind = dataset_class_name(dataset)
    if kind not in _PLAIN or dataset.get('ann_file'):
        raise UserError(
            f'--classes, --ignore-label and --reduce-zero-label are for two folders of images and label maps;'
            f' {kind} has a layout and a numbering of its own'
        )
    for suffix in ('img_suffix', 'seg_map_suffix'):
        dataset.pop(suffix, None)
    meta = dataset_meta(cfg, dataset)
    dataset.metainfo = {key: meta[key] for key in ('classes', 'palette') if key in meta}
    if names is not None:
        dataset.metainfo = {'classes': names, 'palette': palette(len(names))}
    if ignore_label is not None:
        dataset.ignore_label = ignore_label
    if reduce is None:
        reduce = dataset.get('reduce_zero_label', kind == 'ADE20KDataset')
    dataset.reduce_zero_label = reduce
    dataset.type = _OWN


def _undo_own_settings(part: Any, reduce: bool | None) -> None:
    """Where a config says again what the dataset now decides, the two must not differ."""
    if isinstance(part, dict):
        for key in ('ignore_index', 'seg_pad_val'):
            if isinstance(part.get(key), int):
                part[key] = IGNORED
        if reduce is not None and isinstance(part.get('reduce_zero_label'), bool):
            part['reduce_zero_label'] = reduce
    for child in part.values() if isinstance(part, dict) else part if isinstance(part, list | tuple) else ():
        _undo_own_settings(child, reduce)


def _names_in(path: str) -> tuple[str, ...]:
    try:
        lines = Path(path).read_text('utf-8-sig').rstrip().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f'--classes {path}: cannot be read as text') from error
    names = [line.strip() for line in lines]
    for place, name in enumerate(names):
        if not name:
            raise UserError(
                f'--classes {path}: line {place + 1} is empty; each line names the class of a label'
            )
        if name in names[:place]:
            raise UserError(f'--classes {path}: "{name}" is in lines {names.index(name) + 1} and {place + 1}')
    return tuple(names)


def label_folder(cfg: Config, dataset: ConfigDict) -> LabelFolder:
    """Find what a dataset reads, exactly as the toolbox would.

    Args:
        cfg: The config.
        dataset: One of its :func:`map_datasets`.

    Returns:
        The files and what they mean.

    Raises:
        UserError: There are no images.
    """
    with DATASETS.switch_scope_and_registry(cfg.get('default_scope')) as registry:
        built = registry.build({**dataset, 'pipeline': [], 'lazy_init': True})
    images, maps = built.data_prefix['img_path'], built.data_prefix['seg_map_path']
    pairs = [(Path(item['img_path']), Path(item['seg_map_path'])) for item in built.load_data_list()]
    own = dataset_class_name(dataset) == _OWN
    if not pairs:
        wanted = (
            'images'
            if own
            else f'images ending in {built.img_suffix}, as {dataset_class_name(dataset)} wants them'
        )
        hint = '' if own else '; own data, of any file type, come with --classes'
        raise UserError(f'{images}: no {wanted}{hint}')
    classes = tuple(built.metainfo['classes'])
    return LabelFolder(
        Path(maps),
        pairs,
        LabelRule(classes, built.reduce_zero_label, built.label_map or {}),
        built.metainfo.get('palette') or palette(len(classes)),
        SUFFIXES if own else built.seg_map_suffix,
    )
