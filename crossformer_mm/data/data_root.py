"""Point a config's datasets to the data that are found in a folder, whatever their layout."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mmengine.config import Config, ConfigDict

from ..utils.errors import UserError
from .coco_json import Content
from .datasets import (
    LOADERS,
    OWN_MAPS,
    annotation_path,
    coco_datasets,
    dataset_class,
    image_folder,
    join_data_root,
    map_datasets,
    prefixes_of,
    type_name,
)
from .exif import ignores_exif
from .formats.cache import CONVERTED, FOLDER, cache_folder, convert, file_of, format_of, read
from .formats.coco import title
from .formats.label_maps import TRAIN_IDS
from .formats.layout import Layout, Split
from .formats.recognise import recognise
from .problems import Report

_SETS = {'train': 'training set', 'val': 'validation set', 'test': 'test set'}
_WORK_DIR = 'work_dirs/run'  # of commands that have none
_DATASETS = {'cityscapes': 'CityscapesDataset', 'voc-seg': 'PascalVOCDataset'}
_TRAIN_IDS = (
    'write label maps with the numbers of the 19 classes (pip install cityscapesscripts;'
    ' CITYSCAPES_DATASET=DIR csCreateTrainIdLabelImgs), or name the classes of these maps with --classes'
)


@dataclass(frozen=True)
class DataSource:
    """What was found in the folder of the data.

    Attributes:
        layout: The dataset.
        splits: The split that each data loader reads.
        converted: The folder of converted annotation files; None if the toolbox reads the dataset as it is.
        ignore_exif: Whether the run loads the stored pixels, without turning them.
        warnings: Lines for the log.
        classes: The classes of label maps, where the layout has or implies them.
    """

    layout: Layout
    splits: Mapping[str, str] = field(default_factory=dict)
    converted: Path | None = None
    ignore_exif: bool = False
    warnings: Sequence[str] = ()
    classes: tuple[str, ...] | None = None

    def inputs(self) -> list[Path]:
        """The folders and files of the dataset."""
        return [path for split in self.layout.splits.values() for path in (split.images, *split.source)]

    def read(self, loader: str, report: Report, place: Path) -> Content:
        """Read what a data loader reads, without the cache.

        Args:
            loader: The data loader.
            report: Called with each problem.
            place: The folder for images that are only inside label files.

        Raises:
            UserError: A file or folder cannot be read.
        """
        return read(self.layout, self.splits[loader], report, place, self.ignore_exif)

    def convert(self, loaders: Collection[str]) -> None:
        """Write the annotation files that some data loaders read, unless they exist.

        Raises:
            UserError: The data are invalid, or a file cannot be written.
        """
        if self.converted:
            splits = [self.splits[loader] for loader in LOADERS if loader in {*loaders} & {*self.splits}]
            convert(self.layout, splits, self.converted, self.ignore_exif)


def find_data(
    cfg: Config,
    root: str,
    chosen: str | None = None,
    wanted: Collection[str] = (),
    test_split: str | None = None,
    named: bool = False,
) -> DataSource | None:
    """Recognise the data in a folder, and let the config's datasets read them.

    Nothing is converted yet. Label maps in a layout of their own are read by ``LabelMapDataset``.

    Args:
        cfg: The config, changed in place; its datasets have the folder as ``data_root``.
        root: The folder.
        chosen: The format, if the folder has several.
        wanted: The data loaders that need data; those of others are set if there are any.
        test_split: What to test on; by default, the validation set.
        named: Whether an option names the classes of label maps.

    Returns:
        What was found; None if the folder does not exist, or if the config combines several datasets or
        reads another kind of data.

    Raises:
        UserError: There is no such data, or it is ambiguous.
    """
    coco, maps = list(coco_datasets(cfg, *LOADERS)), list(map_datasets(cfg, *LOADERS))
    several = any(len([*coco_datasets(cfg, loader), *map_datasets(cfg, loader)]) > 1 for loader in LOADERS)
    if several or not (coco or maps) or not Path(root).exists():
        return None
    kind = 'detection' if coco else 'segmentation'
    own = _own_coco(coco, Path(root)) if coco else _own_maps(maps, Path(root))
    if own and test_split == 'test':  # the config has no paths for one
        own = None
    layout = recognise(Path(root), kind, chosen, own)
    if layout is own:
        return DataSource(layout)
    splits, warnings = _splits(layout, wanted, test_split)
    classes = _classes(cfg, maps[0], layout) if maps and not named else None
    converted = None
    if layout.format in CONVERTED:
        work_dir = Path(cfg.get('work_dir') or _WORK_DIR).absolute()
        converted = cache_folder(layout, work_dir, ignores_exif(cfg))
    for loader, name in splits.items():
        for dataset in coco_datasets(cfg, loader):
            file = file_of(converted, name) if converted else None
            _set_coco(dataset, layout.root, layout.splits[name], file)
        for dataset in map_datasets(cfg, loader):
            _set_maps(dataset, layout.root, layout.splits[name])
    return DataSource(layout, splits, converted, ignores_exif(cfg), warnings, classes)


def converted_data(cfg: Config) -> tuple[str | None, str | None]:
    """The folder and the format of the data that the config of a training reads converted.

    The data may have changed since, and the conversion may be gone.

    Returns:
        The folder, or None for other configs; and the format, or None if the conversion is gone.
    """
    places = {
        (dataset.get('data_root'), Path(annotation_path(dataset)).parent)
        for dataset in coco_datasets(cfg, *LOADERS)
    }
    root, folder = places.pop() if len(places) == 1 else (None, Path())
    return (root, format_of(folder)) if folder.parent.name == FOLDER else (None, None)


def _own_coco(datasets: Sequence[ConfigDict], root: Path) -> Layout | None:
    """The dataset at the paths of the config, if they lead to a complete split."""
    splits = {}
    for name, dataset in zip(('train', 'val'), datasets, strict=False):
        path, images = Path(annotation_path(dataset)), Path(image_folder(dataset))
        if path.is_file() and images.is_dir() and path.parent.parent.name != FOLDER:
            splits[name] = Split(images, (path,))
    names = [
        path.relative_to(root)
        for split in splits.values()
        for path in split.source
        if path.is_relative_to(root)
    ]
    return Layout('coco', title(names), root, splits) if splits else None


def _own_maps(datasets: Sequence[ConfigDict], root: Path) -> Layout | None:
    splits = {}
    for name, dataset in zip(('train', 'val'), datasets, strict=False):
        prefixes = prefixes_of(dataset)
        images, maps = (Path(join_data_root(dataset, prefixes[key])) for key in ('img_path', 'seg_map_path'))
        if images.is_dir() and maps.is_dir():
            splits[name] = Split(images, (maps,))
    name = "ADE20K's folders" if (root / 'annotations' / 'training').is_dir() else 'the folders of the config'
    return Layout('ade20k', name, root, splits) if splits else None


def _splits(
    layout: Layout, wanted: Collection[str], test_split: str | None
) -> tuple[dict[str, str], list[str]]:
    """The split for each data loader, and warnings."""
    splits, warnings = {}, []
    tested = [test_split] if test_split else ['val', 'test']
    if 'test_dataloader' in wanted and list(layout.splits) == ['train'] and not test_split:
        tested = ['train']
        warnings.append(f'{layout.root} is not split: testing on all images, those that were trained on too')
    for loader, names in zip(LOADERS, (['train'], ['val'], tested), strict=True):
        if name := next((name for name in names if name in layout.splits), None):
            splits[loader] = name
        elif loader in wanted:
            raise UserError(_missing(layout, names[0]))
    return splits, warnings


def _missing(layout: Layout, name: str) -> str:
    what = f'{layout}: there is no {_SETS[name]}'
    remedy = 'draw one with --val-fraction 0.2, or train with --no-val'
    return f'{what}; {remedy}' if name == 'val' else what


def _set_coco(dataset: ConfigDict, root: Path, split: Split, converted: Path | None) -> None:
    dataset.data_root = str(root)
    dataset.ann_file = str(converted) if converted else _inside(split.source[0], root)
    dataset.data_prefix = {'img': _inside(split.images, root)}


def _inside(path: Path, root: Path) -> str:
    """A path as the toolboxes join it with the folder of the data."""
    if not path.is_relative_to(root):
        return str(path.absolute())
    return '' if path == root else str(path.relative_to(root))


def _set_maps(dataset: ConfigDict, root: Path, split: Split) -> None:
    dataset.data_root = str(root)
    maps, *lists = split.source
    for setting in ('img_suffix', 'seg_map_suffix'):
        dataset.pop(setting, None)
    dataset.type = OWN_MAPS
    dataset.data_prefix = {'img_path': _inside(split.images, root), 'seg_map_path': _inside(maps, root)}
    dataset.ann_file = _inside(lists[0], root) if lists else ''
    dataset.maps_ending = split.ending


def _classes(cfg: Config, dataset: ConfigDict, layout: Layout) -> tuple[str, ...] | None:
    """The classes that a layout of label maps implies; None for those that the config names itself."""
    if layout.classes:
        return layout.classes
    if any(split.ending not in ('', TRAIN_IDS) for split in layout.splits.values()):
        raise UserError(f'{layout}: there are only labelIds, no {TRAIN_IDS}; {_TRAIN_IDS}')
    if kind := _DATASETS.get(layout.format):
        return tuple(dataset_class(cfg, {'type': kind}).METAINFO['classes'])
    if type_name(dataset) not in (OWN_MAPS, 'BaseSegDataset'):
        raise UserError(f'{layout}: name the classes with --classes FILE, in the order of their numbers')
    return None
