"""Draw a validation set from the training set, for data that has none."""

import argparse
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mmengine.config import Config, ConfigDict

from ..checkpoint.reader import Checkpoint
from ..data.classes import class_data, read_coco_dataset
from ..data.coco_json import save_copy
from ..data.data_root import DataSource
from ..data.datasets import (
    LOADERS,
    annotation_path,
    check_present,
    chosen_meta,
    class_datasets,
    coco_datasets,
    datasets_of,
    folders_of,
    image_folder,
    map_datasets,
)
from ..data.images import repeated_images
from ..data.label_folders import label_folder
from ..data.options import COCO_ELSEWHERE, MAPS_ELSEWHERE, use_own_maps
from ..data.problems import refuse
from ..data.split import classes_by_image, divide, select
from ..utils.errors import UserError
from ..utils.files import save_text
from ..utils.text import shorten
from .distributed import on_first_process
from .runner import DRAWN

_CLASSES_NAMED = 10  # in a warning
_PLACE = ('data_root', 'data_prefix')  # what the validation set has from the training set
_MAPS = ('type', 'metainfo', 'maps_ending', 'reduce_zero_label', 'ignore_label')  # the same, for label maps


def add_fraction_options(parser: argparse.ArgumentParser) -> None:
    """Add ``--val-fraction`` and ``--val-seed``."""
    parser.add_argument(
        '--val-fraction',
        type=float,
        metavar='SHARE',
        help='draw this share of the images as the validation set, with the classes in proportion, for data'
        f' without one; it is written to {DRAWN}/ in the work folder',
    )
    parser.add_argument(
        '--val-seed',
        type=int,
        metavar='N',
        help="another seed draws other images; independent of the training's seed (0)",
    )


def check_fraction(options: argparse.Namespace) -> None:
    """Check the options that concern the validation set.

    Args:
        options: The parsed options of a training.

    Raises:
        UserError: They are contradictory, or the share is not between 0 and 1.
    """
    share = options.val_fraction
    if share is None:
        if options.val_seed is not None:
            raise UserError(f'--val-seed {options.val_seed}: is the seed of --val-fraction, which is missing')
        return
    if not 0 < share < 1:
        raise UserError(f'--val-fraction {share}: must be a number between 0 and 1, such as 0.2')
    for name in ('no_val', 'val_ann', 'val_images'):
        if getattr(options, name):
            option = f'--{name.replace("_", "-")}'
            raise UserError(f'--val-fraction {share} draws a validation set; omit it, or omit {option}')


@dataclass(frozen=True)
class _Images:
    """The images that are divided.

    Attributes:
        place: Where they are from, for messages.
        folder: The folder that their names are relative to.
        classes: The classes in each, by its name.
        wanted: The classes that the validation set should have; empty if they are not known.
        save: Writes the part with some names to the file of a split.
        warnings: Lines for the log.
    """

    place: str
    folder: str
    classes: Mapping[str, Collection[str]]
    wanted: Sequence[str]
    save: Callable[[Collection[str], str], Path]
    warnings: Sequence[str] = ()


@dataclass(frozen=True)
class DrawnSet:
    """A division into training and validation set.

    Attributes:
        train: The annotation file, or list of images, of the training set.
        val: That of the validation set.
        notes: Lines for the log.
        warnings: The same, for what is easily overlooked.
    """

    train: Path
    val: Path
    notes: list[str]
    warnings: list[str]


def draw_validation(cfg: Config, options: argparse.Namespace, resumed: Checkpoint | None) -> DrawnSet:
    """Draw the validation set, only in the first process, and let the config read it in all of them.

    COCO annotations are repaired, divided, and written to the work folder; of other data, lists of images.
    The names of the files end with a digest of their content, by which the checkpoint of a training that
    resumes is known to have the same.

    Args:
        cfg: The config of the run, changed in place; a test set that does not exist is the same.
        options: The parsed options of the training, with its ``source``.
        resumed: Where the training resumes.

    Raises:
        UserError: There is a validation set, the data is invalid or cannot be divided, or the checkpoint is
            from a training with another division.
    """
    share, source = options.val_fraction, options.source
    option = f'--val-fraction {share}'
    find, read = _kind(cfg)
    training = _check_config(cfg, option, source, find)

    def draw() -> DrawnSet:
        if source:
            source.convert(LOADERS[:1])
        return _draw(read(cfg, training), share, options.val_seed or 0)

    if find is map_datasets:
        use_own_maps(cfg, training, option)
    drawn = on_first_process(draw)
    if resumed and not _is_noted(drawn, resumed):
        raise UserError(
            f'{option}: {resumed.path} was trained with another validation set, or none: the data, the share'
            ' or the seed have changed; resume with the config in its work folder and without'
            ' --val-fraction, or start a new training'
        )
    for dataset in list(find(cfg, *LOADERS[1:])):
        if (source and source.splits) or not Path(_place(dataset)).exists():
            for setting in _PLACE if find is not map_datasets else (*_PLACE, *_MAPS):
                dataset.pop(setting, None)
                dataset.update({setting: training[setting]} if setting in training else {})
            dataset.ann_file = str(drawn.val)
    training.ann_file = str(drawn.train)
    return drawn


def _kind(cfg: Config) -> tuple[Callable[..., Iterator[ConfigDict]], Callable[..., _Images]]:
    """What finds and what reads the datasets of a config."""
    kinds = ((class_datasets, _read_folders), (map_datasets, _read_maps), (coco_datasets, _read_coco))
    return next((kind for kind in kinds if any(kind[0](cfg, LOADERS[0]))), kinds[-1])


def _place(dataset: ConfigDict) -> str:
    """The file or folder that says what a dataset has."""
    return annotation_path(dataset) if dataset.get('ann_file') else image_folder(dataset)


def _check_config(
    cfg: Config,
    option: str,
    source: DataSource | None,
    find: Callable[..., Iterator[ConfigDict]],
) -> ConfigDict:
    """The training set of a config that needs a validation set."""
    training, validation = (list(find(cfg, loader)) for loader in LOADERS[:2])
    if not training and any(True for _ in datasets_of(cfg, LOADERS[0])):
        raise UserError(
            f'{option}: is for COCO annotations, class folders and label maps; this config has none of these'
        )
    if len(training) != 1 or len(validation) != 1:
        raise UserError(
            f'{option}: needs a config with one training set and one validation set; {cfg.filename} has'
            f' {len(training)} and {len(validation)}'
        )
    path = _place(validation[0])
    if Path(path).exists() or (source and LOADERS[1] in source.splits):
        place = source.layout if source else path
        raise UserError(f'{option}: there is a validation set ({place}); omit --val-fraction to use it')
    return training[0]


def _is_noted(drawn: DrawnSet, checkpoint: Checkpoint) -> bool:
    text = checkpoint['meta'].get('cfg')
    return not isinstance(text, str) or all(path.name in text for path in (drawn.train, drawn.val))


def _draw(images: _Images, share: float, seed: int) -> DrawnSet:
    place, classes = images.place, images.classes
    names = {Path(images.folder, name): name for name in classes}
    same = {names[other]: names[first] for first, other in repeated_images(list(names))}
    try:
        parts = divide(classes, [1 - share, share], seed, same)
    except ValueError:
        raise UserError(
            f'--val-fraction {share}: {place} has {len(classes)} image{"s" * (len(classes) != 1)}, of'
            f' which {len(classes) - len(same)} differ; at least 2 are needed'
        ) from None
    chosen = [{name for name in classes if parts[name] == part} for part in (0, 1)]
    validated = {label for name in chosen[1] for label in classes[name]}
    if images.wanted and not validated:
        raise UserError(
            f'--val-fraction {share}: the {len(chosen[1])} images drawn from {place} have no objects;'
            ' give a larger share'
        )
    paths = [images.save(names, split) for names, split in zip(chosen, ('train', 'val'), strict=True)]
    counts = f'{len(chosen[1])} of {len(classes)} images of {place}'
    how = '' if images.wanted else ', without regard to their classes'
    notes = [f'validation set: {counts}, drawn with seed {seed}{how}: {paths[1]}']
    warnings = [*images.warnings]
    if missing := [name for name in images.wanted if name not in validated]:
        warnings.append(
            f'{len(missing)} classes have too few images for the validation set, which has none of them:'
            f' {shorten(missing, _CLASSES_NAMED)}'
        )
    return DrawnSet(*paths, notes, warnings)


def _read_coco(cfg: Config, dataset: ConfigDict) -> _Images:
    """The repaired annotations, with what was repaired as warnings."""
    folder = image_folder(dataset)
    check_present([annotation_path(dataset), folder], COCO_ELSEWHERE, Path.exists)
    file, warnings = read_coco_dataset(cfg, dataset)
    wanted = chosen_meta(cfg, dataset).get('classes') or file.classes
    classes = {name: found & {*wanted} for name, found in classes_by_image(file.content).items()}

    def save(names: Collection[str], split: str) -> Path:
        return save_copy(select(file.content, names), Path(cfg.work_dir, DRAWN), split)

    return _Images(file.name, folder, classes, wanted, save, warnings)


def _read_folders(cfg: Config, dataset: ConfigDict) -> _Images:
    data = class_data(cfg, LOADERS[:1])
    refuse([problem for problem in data.problems(LOADERS[0]) if problem.fatal])
    [split] = data.splits[LOADERS[0]]
    classes = {
        str(path.relative_to(split.folder)): {name} for name in data.classes for path in split.images[name]
    }
    return _Images(split.name, image_folder(dataset), classes, data.classes, _list_saver(cfg))


def _read_maps(cfg: Config, dataset: ConfigDict) -> _Images:
    """The images that have a label map; the maps are not read, since the run does that later."""
    check_present(folders_of(dataset), MAPS_ELSEWHERE)
    found = label_folder(cfg, dataset)
    refuse(found.unpaired())
    folder, save = image_folder(dataset), _list_saver(cfg)
    classes = {str(image.relative_to(folder)): () for image, _ in found.pairs}
    return _Images(
        folder,
        folder,
        classes,
        (),
        lambda names, split: save([str(Path(name).with_suffix('')) for name in names], split),
    )


def _list_saver(cfg: Config) -> Callable[[Collection[str], str], Path]:
    """What writes a list of images, one per line."""
    return lambda names, split: save_text(
        ''.join(f'{name}\n' for name in sorted(names)), Path(cfg.work_dir, DRAWN, f'{split}.txt')
    )
