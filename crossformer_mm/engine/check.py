"""``tools/check_dataset.py``: all that is wrong with a data set, and what is in it, before a training."""

import argparse
import random
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from mmengine.config import Config, ConfigDict

from ..data.classes import read_classes
from ..data.coco import Records, check_records, load_json, missing_images
from ..data.datasets import annotation_path, coco_datasets, image_folder, map_datasets
from ..data.image_check import image_faults, shared_images
from ..data.label_check import MAPS_READ, class_table, inspect_labels
from ..data.label_files import unpaired
from ..data.label_folders import label_folder
from ..data.options import add_data_options, data_options, set_data_paths
from ..data.problems import Findings, Problem
from ..evaluation.dataset_plots import plot_boxes, plot_classes, plot_labels, save_label_samples, save_samples
from ..utils.errors import UserError
from ..utils.files import check_folder
from ..utils.text import printable
from .config import CONFIG_HELP, add_cfg_options, load_config

LOADERS = ('train_dataloader', 'val_dataloader')


def check_parser() -> argparse.ArgumentParser:
    """The options of ``tools/check_dataset.py``."""
    parser = argparse.ArgumentParser(description='List all that is wrong with a data set.')
    parser.add_argument('config', help=CONFIG_HELP)
    add_data_options(parser)
    add_cfg_options(parser)
    parser.add_argument('--sample', type=int, metavar='N', help='decode N images of each set (all)')
    parser.add_argument('--seed', type=int, default=0, help='of the sample and the drawn images (0)')
    parser.add_argument('--show', type=int, default=5, metavar='N', help='problems listed of each kind (5)')
    parser.add_argument('--out', metavar='DIR', type=Path, help='draw classes, boxes and some images there')
    return parser


def check_dataset(options: argparse.Namespace) -> int:
    """Check the training and the validation data of a config, and print what was found.

    Args:
        options: What :func:`check_parser` parsed.

    Returns:
        The exit status: 1 if there are errors.

    Raises:
        UserError: The config or an option does not work, or the data are of neither kind.
    """
    for name in ('sample', 'show'):
        if getattr(options, name) is not None and getattr(options, name) < 1:
            raise UserError(f'--{name} {getattr(options, name)}: give a number above 0')
    cfg = load_config(options.config, options.cfg_options)
    set_data_paths(cfg, data_options(options))
    if options.out:
        check_folder('--out', options.out)
        options.out.mkdir(parents=True, exist_ok=True)
    errors = _check_coco(cfg, options) if any(coco_datasets(cfg, *LOADERS)) else _check_maps(cfg, options)
    print(f'\n{errors or "no"} error{"s" * (errors != 1)}')
    return min(errors, 1)


def _named(cfg: Config, datasets: Callable[..., Iterator[ConfigDict]]) -> Iterator[tuple[str, ConfigDict]]:
    """The datasets that are checked, with what their pictures are called."""
    for loader in LOADERS:
        for number, dataset in enumerate(datasets(cfg, loader)):
            yield loader.removesuffix('_dataloader') + (f'_{number}' if number else ''), dataset


def _check_coco(cfg: Config, options: argparse.Namespace) -> int:
    masks = 'mask_head' in cfg.model.get('roi_head', {})
    errors, images, classes = 0, [], {}
    for name, dataset in _named(cfg, coco_datasets):
        path, folder = Path(annotation_path(dataset)), Path(image_folder(dataset))
        print(f'\n{path} with images in {folder}')
        findings = Findings(options.show)
        try:
            records = _collect(check_records(load_json(path), masks, objects=True), findings)
        except UserError as error:
            findings.add(Problem('annotation file', str(error)))
            records = Records([], [], [])
        present = _present(records, folder, findings)
        sizes = {file: (image['height'], image['width']) for file, image in present.items()}
        sound, faulty = _decode(sizes, findings, options)
        if name.startswith('train'):
            images += sizes.keys() - faulty
            classes[path] = [category['name'] for category in records.categories]
        else:
            _compare_classes(classes, records, findings)
            _compare_images(images, sizes.keys() - faulty, findings)
        print(_objects_table(records))
        errors += _print_findings(findings)
        if options.out and records.annotations:
            plot_classes(options.out / f'{name}_classes.png', records)
            plot_boxes(options.out / f'{name}_boxes.png', records)
            drawn = {file: present[file] for file in sound}
            save_samples(options.out / f'{name}_samples.png', records, drawn, options.seed)
    return errors


def _collect(checks: Generator[Problem, None, Records], findings: Findings) -> Records:
    while True:
        try:
            findings.add(next(checks))
        except StopIteration as end:
            return end.value


def _present(records: Records, folder: Path, findings: Findings) -> dict[Path, dict]:
    """The images that are there, with their records."""
    try:
        missing = set(missing_images((image['file_name'] for image in records.images), folder))
    except UserError as error:
        findings.add(Problem('image folder', str(error)))
        return {}
    for name in sorted(missing):
        findings.add(Problem('images that are missing', str(folder / name)))
    return {folder / i['file_name']: i for i in records.images if i['file_name'] not in missing}


def _decode(
    sizes: Mapping[Path, tuple[int, int]], findings: Findings, options: argparse.Namespace
) -> tuple[list[Path], set[Path]]:
    """Decode images of known height and width, or a sample of them; those without and those with a fault."""
    paths = list(sizes)
    if options.sample and options.sample < len(paths):
        paths = random.Random(options.seed).sample(paths, options.sample)
    faulty = set()
    for path, fault in zip(paths, image_faults(paths, [sizes[path] for path in paths]), strict=True):
        if fault:
            kind = 'images of another size' if 'annotations say' in fault else 'images that cannot be read'
            findings.add(Problem(kind, fault))
            faulty.add(path)
    return [path for path in paths if path not in faulty], faulty


def _compare_classes(classes: Mapping[Path, list[str]], records: Records, findings: Findings) -> None:
    """Whether training and validation have the same."""
    for path, names in classes.items():
        if names != [category['name'] for category in records.categories]:
            findings.add(Problem('other categories', f'not those of {path}, or in another order'))


def _compare_images(training: Iterable[Path], validation: Iterable[Path], findings: Findings) -> None:
    """Whether training and validation share any."""
    for first, second in shared_images(sorted(training), sorted(validation)):
        what = f'{second} is the same as {first}'
        findings.add(Problem('images that training sees too', what, fatal=False))


def _objects_table(records: Records) -> str:
    counts = Counter(annotation['category_id'] for annotation in records.annotations)
    with_objects = {annotation['image_id'] for annotation in records.annotations}
    heading = (
        f'{len(records.images)} images, {len(records.images) - len(with_objects)} of them without objects;'
        f' {len(records.annotations)} objects of {len(records.categories)} classes'
    )
    lines = [
        f'{counts[category["id"]]:>10}  {printable(category["name"])}' for category in records.categories
    ]
    return '\n'.join([heading, *lines])


def _print_findings(findings: Findings) -> int:
    for line in findings.lines():
        print(line)
    return findings.errors()


def _check_maps(cfg: Config, options: argparse.Namespace) -> int:
    if not any(map_datasets(cfg, *LOADERS)):
        raise UserError(f'{options.config} reads neither COCO annotations nor label maps; nothing is checked')
    read_classes(cfg, LOADERS)
    errors, images = 0, []
    for name, dataset in _named(cfg, map_datasets):
        findings = Findings(options.show)
        present = _check_folder(cfg, dataset, name, findings, options)
        if name.startswith('train'):
            images += present
        else:
            _compare_images(images, present, findings)
        errors += _print_findings(findings)
    return errors


def _check_folder(
    cfg: Config, dataset: ConfigDict, name: str, findings: Findings, options: argparse.Namespace
) -> Sequence[Path]:
    """Check and draw the images and label maps of a dataset; the images that can be read."""
    try:
        folder = label_folder(cfg, dataset)
    except UserError as error:
        print()
        findings.add(Problem('image folder', str(error)))
        return []
    for problem in unpaired(folder.pairs, folder.maps, folder.suffixes):
        findings.add(problem)
    pairs = [pair for pair in folder.pairs if pair[1].is_file()]
    labels = inspect_labels(pairs, folder.maps, folder.rule, MAPS_READ if options.sample else None)
    print(f'\n{labels.heading()}\n{class_table(labels)}')
    for problem in [*labels.problems, *labels.warnings]:
        findings.add(problem)
    maps = dict(labels.sound.keys())
    sound, faulty = _decode({image: size for (image, _), size in labels.sound.items()}, findings, options)
    if options.out and labels.pixels:
        plot_labels(options.out / f'{name}_classes.png', labels)
        drawn = [(image, maps[image]) for image in sound]
        save_label_samples(
            options.out / f'{name}_samples.png', drawn, folder.rule, folder.colours, options.seed
        )
    return [image for image, _ in folder.pairs if image not in faulty]
