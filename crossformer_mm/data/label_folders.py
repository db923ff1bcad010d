"""Find and check the images and label maps that a dataset reads."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mmengine.config import Config, ConfigDict
from mmengine.registry import DATASETS

from ..utils.errors import UserError
from .datasets import OWN_MAPS, map_datasets, palette, type_name
from .exif import ignores_exif
from .label_check import LabelReport, LabelRule, inspect_labels
from .label_files import Pair, map_suffixes, unpaired
from .problems import Problem, refuse


@dataclass(frozen=True)
class LabelFolder:
    """The images and label maps of a dataset.

    Attributes:
        maps: The folder of label maps.
        pairs: Images and the paths of their maps, which may not exist.
        rule: The meaning of the values in the maps.
        colours: RGB of each class, 0 to 255.
        suffixes: The suffixes of label maps.
        ignore_exif: Whether images are loaded without being turned as their EXIF data says.
        listed: The list of the images, which may be some of those in their folder; empty without one.
    """

    maps: Path
    pairs: Sequence[Pair]
    rule: LabelRule
    colours: Sequence[Sequence[int]]
    suffixes: str | tuple[str, ...]
    ignore_exif: bool = False
    listed: str = ''

    def unpaired(self) -> list[Problem]:
        """Images without a label map and label maps without an image."""
        return unpaired(self.pairs, self.maps, self.suffixes, bool(self.listed))


def check_labels(cfg: Config, loaders: Sequence[str]) -> list[LabelReport]:
    """Read and check the label maps that a run uses for training or evaluation.

    Args:
        cfg: The config of the run.
        loaders: The data loaders that it uses.

    Returns:
        One report per folder; none for other kinds of data.

    Raises:
        UserError: A folder has problems that stop the run; the message describes the first.
    """
    reports = []
    for dataset in map_datasets(cfg, *loaders):
        folder = label_folder(cfg, dataset)
        refuse(folder.unpaired())
        place = f'{folder.maps} ({folder.listed})' if folder.listed else folder.maps
        report = inspect_labels(folder.pairs, place, folder.rule, ignore_exif=folder.ignore_exif)
        refuse(report.problems)
        reports.append(report)
    return reports


def label_folder(cfg: Config, dataset: ConfigDict) -> LabelFolder:
    """Find the files that a dataset reads, exactly as the toolbox does.

    Args:
        cfg: The config.
        dataset: One of its :func:`map_datasets`.

    Raises:
        UserError: There are no images, or some in folders that MMSegmentation should not read but would.
    """
    with DATASETS.switch_scope_and_registry(cfg.get('default_scope')) as registry:
        built = registry.build({**dataset, 'pipeline': [], 'lazy_init': True})
    kind = type_name(dataset)
    if kind != OWN_MAPS:
        _check_walk(built.data_prefix['img_path'], built.img_suffix, kind)
    pairs = [(Path(item['img_path']), Path(item['seg_map_path'])) for item in built.load_data_list()]
    if not pairs:
        which = (
            ''
            if kind == OWN_MAPS
            else f' ending in {built.img_suffix}, as {kind} reads them; for other types, give --classes'
        )
        raise UserError(f'{built.data_prefix["img_path"]}: no images{which}')
    classes = tuple(built.metainfo['classes'])
    return LabelFolder(
        Path(built.data_prefix['seg_map_path']),
        pairs,
        LabelRule(classes, built.reduce_zero_label, built.label_map or {}),
        built.metainfo.get('palette') or palette(len(classes)),
        map_suffixes(built.maps_ending) if kind == OWN_MAPS else built.seg_map_suffix,
        ignores_exif(dataset),
        built.ann_file if kind == OWN_MAPS else '',
    )


def _check_walk(folder: str, suffix: str, kind: str) -> None:
    """Refuse hidden folders and links in a circle, both of which MMSegmentation follows."""
    for parent, folders, files in os.walk(folder):
        if '/.' in parent.removeprefix(folder) and any(name.endswith(suffix) for name in files):
            raise UserError(f'{parent}: is in a hidden folder, which {kind} reads like others; remove it')
        for path in (Path(parent, name) for name in folders):
            if path.is_symlink() and Path(parent).resolve().is_relative_to(path.resolve()):
                raise UserError(f'{path}: links to a folder around it, where {kind} finds no end; remove it')
