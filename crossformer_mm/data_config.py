"""Point a config at data of any kind, and make all that depends on its classes agree."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mmengine.config import Config, ConfigDict

from .coco_config import agree_with_annotations, coco_datasets
from .config_parts import LOADERS, class_names, datasets_of, joined
from .errors import UserError

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
    if any(next(coco_datasets(cfg, loader), None) for loader in loaders):
        return agree_with_annotations(cfg, loaders, objects)
    _check_folders([dataset for loader in loaders for dataset in datasets_of(cfg, loader)])
    return None


def classes_of(cfg: Config) -> tuple[str, ...]:
    """The class names that a run's config was given.

    Args:
        cfg: The config of a run.

    Returns:
        The names; none where the data says none.
    """
    datasets = [dataset for loader in LOADERS for dataset in datasets_of(cfg, loader)]
    return next(filter(None, (class_names(cfg, dataset) for dataset in datasets)), ())


def _check_folders(datasets: list[ConfigDict]) -> None:
    """What other formats hold is the toolbox's to read; that their folders are there is checked before."""
    folders = [
        joined(dataset, folder)
        for dataset in datasets
        for folder in dataset.get('data_prefix', {}).values()
        if folder
    ]
    missing = [folder for folder in dict.fromkeys(folders) if not Path(folder).is_dir()]
    if missing:
        raise UserError(f'no data at {", ".join(missing)}; put the data there, or {_OTHER_FORMATS}')
