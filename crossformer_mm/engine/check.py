"""``crossformer check``: list all problems of a dataset, and summarise its content, before training.

These are the checks that every training and evaluation starts with, but they do not stop at the first
problem, and the images are decoded too.
"""

import argparse
import json
import random
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory

import cv2
from mmengine.config import Config, ConfigDict
from pycocotools.coco import COCO

from ..data.class_splits import Split
from ..data.classes import check_chosen, chosen_classes, class_data, read_data
from ..data.coco import CocoFile, read_coco
from ..data.coco_images import missing_images, similar_files
from ..data.coco_use import images_used, use_problems
from ..data.data_root import DataSource
from ..data.datasets import (
    annotation_path,
    class_datasets,
    coco_datasets,
    image_folder,
    input_paths,
    map_datasets,
    trains_masks,
)
from ..data.exif import check_exif, ignores_exif
from ..data.images import problems_of_images, repeated_images, shared_images
from ..data.label_check import MAPS_READ, LabelReport, inspect_labels
from ..data.label_files import Pair, read_label_map
from ..data.label_folders import LabelFolder, label_folder
from ..data.options import COCO_ELSEWHERE, add_data_options, data_options, set_data_paths
from ..data.problems import Findings, Problem
from ..evaluation.class_pictures import save_sheet, short_class
from ..evaluation.detection_pictures import coco_objects, save_objects
from ..evaluation.pictures import SHEET_DPI, SMALL_PANEL, read_picture
from ..evaluation.plots import plot_bars, plot_box_sizes
from ..evaluation.segmentation_pictures import SegmentedImage, save_segments
from ..utils.errors import UserError
from ..utils.files import check_folder, files_in
from ..utils.outputs import check_outputs, check_place
from ..utils.text import printable, printable_lines, short_name, shorten
from .config import load_config
from .config_options import CONFIG_HELP, add_cfg_options

LOADERS = ('train_dataloader', 'val_dataloader')
_SAMPLES, _COLUMNS = 12, 4  # images per sheet and per row
_LABEL_DPI = 150  # of a sheet of label maps


def check_parser() -> argparse.ArgumentParser:
    """The options of the command."""
    parser = argparse.ArgumentParser(description='List all problems of a dataset.')
    parser.add_argument('config', help=CONFIG_HELP)
    add_data_options(parser)
    add_cfg_options(parser)
    parser.add_argument('--no-val', action='store_true', help='check only the training set')
    parser.add_argument('--sample', type=int, metavar='N', help='decode only N images of each set')
    parser.add_argument(
        '--seed', type=int, default=0, help='seed for the sample and for the images to draw (%(default)s)'
    )
    parser.add_argument(
        '--show', type=int, default=5, metavar='N', help='problems to list of each kind (%(default)s)'
    )
    parser.add_argument(
        '--out', metavar='DIR', type=Path, help='folder for plots of classes and box sizes, and samples'
    )
    return parser


def check_dataset(options: argparse.Namespace) -> int:
    """Check the training and validation data of a config, and print the findings.

    Args:
        options: The options parsed by :func:`check_parser`.

    Returns:
        The exit status: 1 if there are errors.

    Raises:
        UserError: The config or an option is invalid, or the data is neither COCO annotations nor label maps
            nor class folders.
    """
    for name in ('sample', 'show'):
        if getattr(options, name) is not None and getattr(options, name) < 1:
            raise UserError(f'--{name} {getattr(options, name)}: must be at least 1')
    with TemporaryDirectory() as place:  # for converted annotations
        return _check(options, Path(place))


def _check(options: argparse.Namespace, place: Path) -> int:
    cfg = load_config(options.config, options.cfg_options)
    loaders = LOADERS[:1] if options.no_val else LOADERS
    source = set_data_paths(cfg, data_options(options), loaders)
    if source:
        print(printable(str(source.layout)))
    if any(coco_datasets(cfg, *loaders)):
        find, check = coco_datasets, _CocoCheck(cfg, options, source, place)
    elif any(map_datasets(cfg, *loaders)):
        find, check = map_datasets, _LabelCheck(cfg, options)
        read_data(cfg, loaders)
    elif any(class_datasets(cfg, *loaders)):
        find, check = class_datasets, _FolderCheck(cfg, loaders, options)
    else:
        raise UserError(f'{options.config} reads neither COCO annotations nor label maps nor class folders')
    if options.out:
        check_folder('--out', options.out)
        check_place('--out', options.out, input_paths(cfg))
        pictures = [options.out.glob(f'{loader.removesuffix("_dataloader")}*_*.png') for loader in LOADERS]
        check_outputs('--out', [path for paths in pictures for path in paths])
    errors, training = 0, []
    for loader in loaders:
        for number, dataset in enumerate(find(cfg, loader)):
            findings = Findings(options.show)
            name = loader.removesuffix('_dataloader') + (f'_{number}' if number else '')
            images = check(dataset, name, findings)
            if loader == LOADERS[0]:
                training += images
            else:
                _compare_images(training, images, findings)
            for line in findings.lines():
                print(line)
            errors += findings.errors()
    print(f'\n{errors or "no"} error{"s" * (errors != 1)}')
    return min(errors, 1)


def _decode(
    sizes: Mapping[Path, tuple[int, int] | None],
    ignore_exif: bool,
    findings: Findings,
    options: argparse.Namespace,
) -> dict[Path, bool]:
    """Decode images, some of known height and width, or a sample; returns whether each is usable."""
    paths = list(sizes)
    for problem in [] if ignore_exif else check_exif(paths):
        findings.add(problem)
    if options.sample and options.sample < len(paths):
        paths = random.Random(options.seed).sample(paths, options.sample)
    usable = {}
    found = problems_of_images(paths, [sizes[path] for path in paths], ignore_exif)
    for path, problems in zip(paths, found, strict=True):
        usable[path] = not any(problem.fatal for problem in problems)
        for problem in problems:
            findings.add(problem)
    return usable


def _compare_images(training: Iterable[Path], validation: Iterable[Path], findings: Findings) -> None:
    for first, second in shared_images(sorted(training), sorted(validation)):
        what = f'{second} is the same as {first}'
        findings.add(Problem('images that are in the training set too', what, fatal=False))


class _CocoCheck:
    """Checks COCO datasets one after the other, and compares their categories with the first."""

    def __init__(
        self, cfg: Config, options: argparse.Namespace, source: DataSource | None, place: Path
    ) -> None:
        self.masks = trains_masks(cfg)
        self.options = options
        self.source, self.place = source, place
        self.chosen = chosen_classes(cfg)
        self.first: CocoFile | None = None

    def __call__(self, dataset: ConfigDict, name: str, findings: Findings) -> list[Path]:
        """Check, print and draw a dataset; returns its images without known faults."""
        if self.source and self.source.converted:  # read again: the cache has no broken files
            split = name.partition('_')[0]
            path = self.place / f'{split}.json'
            print('\n' + printable(f'{self.source.layout.root}, {split}'))
            try:
                content = self.source.read(f'{split}_dataloader', findings.add, self.place)
            except UserError as error:
                findings.add(Problem('data that cannot be read', str(error)))
                return []
            path.write_text(json.dumps(content))
        else:
            path = Path(annotation_path(dataset))
            print('\n' + printable(f'{path} with images in {image_folder(dataset)}'))
        return self._check(dataset, path, name, findings)

    def _check(self, dataset: ConfigDict, path: Path, name: str, findings: Findings) -> list[Path]:
        folder, ignore_exif = Path(image_folder(dataset)), ignores_exif(dataset)
        try:
            file = read_coco(
                path,
                self.masks,
                report=findings.add,
                folder=folder,
                headers=self.options.sample,
                ignore_exif=ignore_exif,
            )
        except UserError as error:
            remedy = '' if path.exists() else COCO_ELSEWHERE
            findings.add(Problem('annotation file', str(error), remedy=remedy))
            file = CocoFile(path, [], [], [])
        if file.categories:
            self._check_classes(file, findings)
        classes = self.chosen or file.classes
        used = images_used(file, dataset.get('filter_cfg'), classes) if name.startswith('train') else None
        for problem in use_problems(file, classes, used):
            findings.add(problem)
        images = _existing_images(file, folder, findings)
        sizes = {path: (image['height'], image['width']) for path, image in images.items()}
        usable = _decode(sizes, ignore_exif, findings, self.options)
        if file.categories:  # none if it cannot be read
            print(_objects_table(file))
        if self.options.out and file.annotations:
            drawn = {path: images[path] for path, is_usable in usable.items() if is_usable}
            draw_objects(self.options.out, name, file, drawn, self.options.seed, ignore_exif)
        return [path for path in images if usable.get(path, True)]

    def _check_classes(self, file: CocoFile, findings: Findings) -> None:
        """Check the categories of a file: those that the config selects, or else all of them."""
        self.first = self.first or file
        if self.chosen:
            try:
                check_chosen(file, self.chosen, bool(file.annotations))
            except UserError as error:
                findings.add(Problem('classes that the config selects', str(error)))
        elif file.classes != self.first.classes:
            what = f'not those of {self.first.name}, or in another order'
            findings.add(Problem('different categories', what))


def _existing_images(file: CocoFile, folder: Path, findings: Findings) -> dict[Path, dict]:
    """The existing images, with their records."""
    try:
        missing = set(missing_images(file.image_names, folder))
    except UserError as error:
        findings.add(Problem('image folder', str(error)))
        return {}
    similar = similar_files(sorted(missing), folder) if missing else {}
    for name, files in similar.items():
        hint = f'; similar: {shorten(files)}' if files else ''
        findings.add(Problem('images that are missing', f'{folder / name}{hint}'))
    return {folder / i['file_name']: i for i in file.images if i['file_name'] not in missing}


def _objects_table(file: CocoFile) -> str:
    counts = Counter(annotation['category_id'] for annotation in file.annotations)
    with_objects = {annotation['image_id'] for annotation in file.annotations}
    heading = (
        f'{len(file.images)} images, {len(file.images) - len(with_objects)} of them without objects;'
        f' {len(file.annotations)} objects of {len(file.categories)} classes'
    )
    lines = [f'{counts[category["id"]]:>10}  {short_name(category["name"])}' for category in file.categories]
    return '\n'.join([heading, *lines])


def draw_objects(
    out: Path,
    name: str,
    file: CocoFile,
    images: Mapping[Path, dict],
    seed: int,
    ignore_exif: bool = False,
) -> None:
    """Draw the frequencies of classes, the sizes of boxes, and some images with their objects.

    Args:
        out: The folder for the pictures.
        name: Prefix of their names.
        file: An annotation file with objects.
        images: Its readable images, with their records.
        seed: Seed for choosing among those with objects.
        ignore_exif: Whether to draw on the stored pixels, without turning them.
    """
    counts = Counter(annotation['category_id'] for annotation in file.annotations)
    frequencies = [counts[category['id']] for category in file.categories]
    plot_bars(out / f'{name}_classes.png', file.classes, frequencies, 'objects')
    plot_box_sizes(out / f'{name}_boxes.png', [annotation['bbox'] for annotation in file.annotations])
    with_objects = {annotation['image_id'] for annotation in file.annotations}
    paths = [path for path, image in images.items() if image['id'] in with_objects]
    paths = random.Random(seed).sample(paths, min(_SAMPLES, len(paths)))
    if paths:
        coco = COCO()
        chosen = {images[path]['id'] for path in paths}
        annotations = [a for a in file.annotations if a['image_id'] in chosen]
        coco.dataset = {'images': file.images, 'categories': file.categories, 'annotations': annotations}
        with redirect_stdout(StringIO()):
            coco.createIndex()
        sheet = [(read_picture(path, ignore_exif), coco_objects(coco, images[path]['id'])) for path in paths]
        path = out / f'{name}_samples.png'
        save_objects(path, sheet, columns=min(_COLUMNS, len(sheet)), panel=SMALL_PANEL, dpi=SHEET_DPI)


class _LabelCheck:
    """Checks datasets of images and label maps one after the other."""

    def __init__(self, cfg: Config, options: argparse.Namespace) -> None:
        self.cfg = cfg
        self.options = options

    def __call__(self, dataset: ConfigDict, name: str, findings: Findings) -> list[Path]:
        """Check, print and draw a dataset; returns its images without known faults."""
        try:
            folder = label_folder(self.cfg, dataset)
        except UserError as error:
            print()
            findings.add(Problem('image folder', str(error)))
            return []
        problems = folder.unpaired()
        pairs = [pair for pair in folder.pairs if pair[1].is_file()]
        most = MAPS_READ if self.options.sample else None
        labels = inspect_labels(pairs, folder.maps, folder.rule, most, folder.ignore_exif)
        print(f'\n{printable_lines(labels.summary())}')
        for problem in (*problems, *labels.problems, *labels.warnings):
            findings.add(problem)
        sizes = {image: size for (image, _), size in labels.sound.items()}
        usable = _decode(sizes, folder.ignore_exif, findings, self.options)
        if self.options.out and labels.pixels:
            drawn = [pair for pair in labels.sound if usable.get(pair[0])]
            draw_labels(self.options.out, name, folder, labels, drawn, self.options.seed)
        return [image for image, _ in folder.pairs if usable.get(image, True)]


def draw_labels(
    out: Path, name: str, folder: LabelFolder, labels: LabelReport, pairs: Sequence[Pair], seed: int
) -> None:
    """Draw the frequencies of classes, and some images with their label maps overlaid.

    Args:
        out: The folder for the pictures.
        name: Prefix of their names.
        folder: The files and the rule for their values.
        labels: The report on the label maps.
        pairs: Readable images with label maps of the same size.
        seed: Seed for choosing among the pairs.
    """
    total = sum(labels.pixels.values())
    names = [folder.rule.name_of(value) or f'{value}: no class' for value in labels.pixels]
    shares = [100 * count / total for count in labels.pixels.values()]
    plot_bars(out / f'{name}_classes.png', names, shares, '% of the pixels')
    chosen = random.Random(seed).sample(pairs, min(_SAMPLES, len(pairs)))
    if chosen:
        images = [_labelled(image, label_map, folder) for image, label_map in chosen]
        save_segments(
            out / f'{name}_samples.png',
            images,
            folder.rule.classes,
            folder.colours,
            columns=min(_COLUMNS, len(images)),
            panel=SMALL_PANEL,
            dpi=_LABEL_DPI,
        )


def _labelled(image: Path, label_map: Path, folder: LabelFolder) -> SegmentedImage:
    """An image and its labels, reduced to the size at which they are drawn."""
    picture, values = read_picture(image, folder.ignore_exif), read_label_map(label_map)
    scale = min(1, SMALL_PANEL * _LABEL_DPI / max(values.shape))
    size = [max(1, round(side * scale)) for side in values.shape[::-1]]
    labels = folder.rule.labels_in(values)
    return SegmentedImage(
        cv2.resize(picture, size, interpolation=cv2.INTER_AREA),
        [cv2.resize(labels, size, interpolation=cv2.INTER_NEAREST)],
    )


class _FolderCheck:
    """Checks the class folders of all splits, and draws each split."""

    def __init__(self, cfg: Config, loaders: Sequence[str], options: argparse.Namespace) -> None:
        self.options = options
        self.data = class_data(cfg, loaders)
        print(f'\n{printable_lines(_folders_table(self.data.splits))}')

    def __call__(self, dataset: ConfigDict, name: str, findings: Findings) -> list[Path]:
        """Check, print and draw a split; returns its images without known faults."""
        split, number = name.partition('_')[::2]
        loader = f'{split}_dataloader'
        if not number:  # of several joined splits, all are checked together
            for problem in self.data.problems(loader):
                findings.add(problem)
        folder = self.data.splits[loader][int(number or 0)]
        classes = {path: label for label in self.data.classes for path in folder.images.get(label, ())}
        print('\n' + printable(f'{folder.folder}: {len(classes)} images'))
        for path in _ignored_files(folder):
            findings.add(Problem('files that are not read', f'{path} has no suffix of an image', fatal=False))
        ignore_exif = ignores_exif(dataset)
        usable = _decode(dict.fromkeys(classes), ignore_exif, findings, self.options)
        if not self.options.sample:
            for first, second in repeated_images(list(classes)):
                if classes[first] != classes[second]:
                    what = f'{second} is the same as {first}'
                    findings.add(Problem('images in two classes', what, False, 'keep it in the right class'))
        if self.options.out and classes:
            drawn = [path for path, is_usable in usable.items() if is_usable]
            draw_folders(self.options.out, name, folder, drawn, self.options.seed, ignore_exif)
        return [path for path in classes if usable.get(path, True)]


def _folders_table(splits: Mapping[str, Sequence[Split]]) -> str:
    """The number of images of each class, by split."""
    every = [split for splits_of_loader in splits.values() for split in splits_of_loader]
    names = sorted({name for split in every for name in split.images})
    lines = [[len(split.images[name]) if name in split.images else '-' for split in every] for name in names]
    rows = [*lines, [sum(map(len, split.images.values())) for split in every]]
    heads = [Path(split.listed).stem if split.listed else split.folder.name for split in every]
    width = max(10, *map(len, heads)) + 1
    texts = [''.join(f'{cell:>{width}}' for cell in row) for row in (heads, *rows)]
    labels = ['', *map(short_name, names), f'all {len(names)} classes']
    return '\n'.join(f'{text}  {label}'.rstrip() for text, label in zip(texts, labels, strict=True))


def _ignored_files(split: Split) -> list[Path]:
    """The files in class folders that no run reads."""
    return [
        path
        for name, images in split.images.items()
        for path in sorted({*files_in(split.folder / name)} - {*images})
        if not split.listed
    ]


def draw_folders(
    out: Path, name: str, split: Split, images: Sequence[Path], seed: int, ignore_exif: bool = False
) -> None:
    """Draw the frequencies of classes, and some images with their classes.

    Args:
        out: The folder for the pictures.
        name: Prefix of their names.
        split: The split.
        images: Its readable images.
        seed: Seed for choosing among them.
        ignore_exif: Whether to draw the stored pixels, without turning them.
    """
    counts = [len(paths) for paths in split.images.values()]
    plot_bars(out / f'{name}_classes.png', list(split.images), counts, 'images')
    chosen = random.Random(seed).sample(images, min(_SAMPLES, len(images)))
    if chosen:
        pictures = (read_picture(path, ignore_exif) for path in chosen)
        labels = [short_class(path.relative_to(split.folder).parts[0]) for path in chosen]
        save_sheet(out / f'{name}_samples.png', pictures, labels)
