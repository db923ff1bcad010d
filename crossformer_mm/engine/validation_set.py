"""Draw a validation set from the training set, for data that has none."""

import argparse
from dataclasses import dataclass
from pathlib import Path

from mmengine.config import Config, ConfigDict

from ..checkpoint.reader import Checkpoint
from ..data.coco import CocoFile, check_images, read_coco, refusing
from ..data.coco_json import save_copy
from ..data.data_root import DataSource
from ..data.datasets import (
    LOADERS,
    annotation_path,
    check_present,
    chosen_meta,
    coco_datasets,
    datasets_of,
    image_folder,
    trains_masks,
)
from ..data.exif import ignores_exif
from ..data.images import repeated_images
from ..data.options import COCO_ELSEWHERE
from ..data.problems import Findings
from ..data.split import classes_by_image, divide, select
from ..utils.errors import UserError
from ..utils.text import shorten
from .distributed import on_first_process
from .runner import DRAWN

_CLASSES_NAMED = 10  # in a warning


def add_fraction_options(parser: argparse.ArgumentParser) -> None:
    """Add ``--val-fraction`` and ``--val-seed``."""
    parser.add_argument(
        '--val-fraction',
        type=float,
        metavar='SHARE',
        help='draw this share of the images as the validation set, with the classes in proportion, for COCO'
        f' annotations without one; it is written to {DRAWN}/ in the work folder',
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
class DrawnSet:
    """A division into training and validation set.

    Attributes:
        train: The annotation file of the training set.
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

    The annotations are repaired, divided, and written to the work folder. The names of the files end with a
    digest of their content, by which the checkpoint of a training that resumes is known to have the same.

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
    training = _check_config(cfg, option, source)

    def draw() -> DrawnSet:
        if source:
            source.convert(LOADERS[:1])
        return _draw(cfg, training, share, options.val_seed or 0)

    drawn = on_first_process(draw)
    if resumed and not _is_noted(drawn, resumed):
        raise UserError(
            f'{option}: {resumed.path} was trained with another validation set, or none: the data, the share'
            ' or the seed have changed; resume with the config in its work folder and without'
            ' --val-fraction, or start a new training'
        )
    for dataset in list(coco_datasets(cfg, *LOADERS[1:])):
        if (source and source.splits) or not Path(annotation_path(dataset)).exists():
            dataset.update(
                data_root=training.get('data_root'), data_prefix=training.get('data_prefix', {'img': ''})
            )
            dataset.ann_file = str(drawn.val)
    training.ann_file = str(drawn.train)
    return drawn


def _check_config(cfg: Config, option: str, source: DataSource | None) -> ConfigDict:
    """The training set of a config that needs a validation set."""
    training, validation = (list(coco_datasets(cfg, loader)) for loader in LOADERS[:2])
    if not training and any(True for _ in datasets_of(cfg, LOADERS[0])):
        raise UserError(
            f'{option}: is for COCO annotations, which this config does not read; move some images and their'
            ' label maps into a validation folder, or train with --no-val'
        )
    if len(training) != 1 or len(validation) != 1:
        raise UserError(
            f'{option}: needs a config with one training set and one validation set; {cfg.filename} has'
            f' {len(training)} and {len(validation)}'
        )
    path = annotation_path(validation[0])
    if Path(path).exists() or (source and LOADERS[1] in source.splits):
        place = source.layout if source else path
        raise UserError(f'{option}: there is a validation set ({place}); omit --val-fraction to use it')
    return training[0]


def _is_noted(drawn: DrawnSet, checkpoint: Checkpoint) -> bool:
    text = checkpoint['meta'].get('cfg')
    return not isinstance(text, str) or all(path.name in text for path in (drawn.train, drawn.val))


def _draw(cfg: Config, dataset: ConfigDict, share: float, seed: int) -> DrawnSet:
    folder = image_folder(dataset)
    file, findings = _read(cfg, dataset)
    wanted = chosen_meta(cfg, dataset).get('classes') or file.classes
    classes = {name: found & {*wanted} for name, found in classes_by_image(file.content).items()}
    names = {Path(folder, name): name for name in classes}
    same = {names[other]: names[first] for first, other in repeated_images(list(names))}
    try:
        parts = divide(classes, [1 - share, share], seed, same)
    except ValueError:
        raise UserError(
            f'--val-fraction {share}: {file.name} has {len(classes)} image{"s" * (len(classes) != 1)}, of'
            f' which {len(classes) - len(same)} differ; at least 2 are needed'
        ) from None
    chosen = [{name for name in classes if parts[name] == part} for part in (0, 1)]
    validated = {label for name in chosen[1] for label in classes[name]}
    if not validated:
        raise UserError(
            f'--val-fraction {share}: the {len(chosen[1])} images drawn from {file.name} have no objects;'
            ' give a larger share'
        )
    paths = [
        save_copy(select(file.content, names), Path(cfg.work_dir, DRAWN), name)
        for names, name in zip(chosen, ('train', 'val'), strict=True)
    ]
    counts = f'{len(chosen[1])} of {len(classes)} images of {file.name}'
    notes = [f'validation set: {counts}, drawn with seed {seed}: {paths[1]}']
    warnings = [f'{file.name}: {line}' for line in (*file.notes, *findings.summary())]
    if missing := [name for name in wanted if name not in validated]:
        warnings.append(
            f'{len(missing)} classes have too few images for the validation set, which has none of them:'
            f' {shorten(missing, _CLASSES_NAMED)}'
        )
    return DrawnSet(*paths, notes, warnings)


def _read(cfg: Config, dataset: ConfigDict) -> tuple[CocoFile, Findings]:
    """The repaired annotations, and what was repaired."""
    path, folder, findings = annotation_path(dataset), image_folder(dataset), Findings(1)
    check_present([path, folder], COCO_ELSEWHERE, Path.exists)
    masks, exif = trains_masks(cfg), ignores_exif(dataset)
    file = read_coco(path, masks, True, refusing(path, findings.add), folder, ignore_exif=exif)
    check_images(file, folder, exif)
    return file, findings
