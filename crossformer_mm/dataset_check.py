"""``tools/check_dataset.py``: all that is wrong with a data set, and what is in it, before a training."""

import argparse
import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from mmengine.config import Config

from .checkpoint.names import printable
from .config.coco import annotation_path, coco_datasets, image_folder
from .config.data import agree_with_data, point_to_data
from .config.run import add_data_options, data_options, load_config
from .config.segmentation import inspect_folder, map_datasets
from .data.coco import Problem, Records, check_records, load_json, missing_images
from .data.image_check import image_faults, shared_images
from .errors import UserError
from .outputs import check_folder
from .pictures.dataset import plot_boxes, plot_classes, plot_labels, save_samples

LOADERS = ('train_dataloader', 'val_dataloader')


@dataclass
class Report:
    """What was found in one data set.

    Attributes:
        shown: How many problems of a kind are listed; all are counted.
    """

    shown: int
    counts: Counter = field(default_factory=Counter)
    examples: dict[tuple[bool, str], list[str]] = field(default_factory=lambda: defaultdict(list))

    def add(self, problem: Problem) -> None:
        """Count a problem, and keep it if it is one of the first of its kind."""
        key = (problem.fatal, problem.kind)
        self.counts[key] += 1
        if len(self.examples[key]) < self.shown:
            self.examples[key].append(printable(problem.what))

    def errors(self) -> int:
        """How many of the problems are errors."""
        return sum(count for (fatal, _), count in self.counts.items() if fatal)

    def lines(self) -> Iterator[str]:
        """The problems, errors first."""
        for (fatal, kind), whats in sorted(self.examples.items(), key=lambda item: not item[0][0]):
            yield f'{"error" if fatal else "warning"}: {kind}: {self.counts[fatal, kind]}'
            yield from (f'    {what}' for what in whats)


def check_parser() -> argparse.ArgumentParser:
    """The options of ``tools/check_dataset.py``."""
    parser = argparse.ArgumentParser(description='List all that is wrong with a data set.')
    parser.add_argument('config', help='the config file')
    add_data_options(parser)
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
    point_to_data(cfg, data_options(options))
    if options.out:
        check_folder('--out', options.out)
        options.out.mkdir(parents=True, exist_ok=True)
    errors = _check_coco(cfg, options) if any(coco_datasets(cfg, *LOADERS)) else _check_maps(cfg, options)
    print(f'{errors} errors' if errors else 'no errors')
    return min(errors, 1)


def _check_coco(cfg: Config, options: argparse.Namespace) -> int:
    masks = 'mask_head' in cfg.model.get('roi_head', {})
    errors, images, classes = 0, {}, {}
    for loader in LOADERS:
        for number, dataset in enumerate(coco_datasets(cfg, loader)):
            path, folder = Path(annotation_path(dataset)), Path(image_folder(dataset))
            print(f'\n{path} with images in {folder}')
            report = Report(options.show)
            try:
                records = _collect(check_records(load_json(path), masks, objects=True), report)
            except UserError as error:
                report.add(Problem('annotation file', str(error)))
                records = Records([], [], [])
            present = _check_files(records, folder, report, options)
            if loader.startswith('train'):
                images.update(present)
                classes[path] = [category['name'] for category in records.categories]
            else:
                _compare(images, present, classes, records, report)
            errors += _print_report(records, report)
            if options.out and records.annotations:
                prefix = loader.removesuffix('_dataloader') + (f'_{number}' if number else '')
                plot_classes(options.out / f'{prefix}_classes.png', records)
                plot_boxes(options.out / f'{prefix}_boxes.png', records)
                save_samples(options.out / f'{prefix}_samples.png', records, present, options.seed)
    return errors


def _collect(checks: Iterable[Problem], report: Report) -> Records:
    while True:
        try:
            report.add(next(checks))
        except StopIteration as end:
            return end.value


def _check_files(
    records: Records, folder: Path, report: Report, options: argparse.Namespace
) -> dict[Path, dict]:
    """The images that are there and, of those that were decoded, without fault."""
    try:
        missing = set(missing_images((image['file_name'] for image in records.images), folder))
    except UserError as error:
        report.add(Problem('image folder', str(error)))
        return {}
    for name in sorted(missing):
        report.add(Problem('images that are missing', str(folder / name)))
    present = {folder / i['file_name']: i for i in records.images if i['file_name'] not in missing}
    paths = list(present)
    if options.sample and options.sample < len(paths):
        paths = random.Random(options.seed).sample(paths, options.sample)
    faults = image_faults(paths, [(present[path]['height'], present[path]['width']) for path in paths])
    for path, fault in zip(paths, faults, strict=True):
        if fault:
            kind = 'images of another size' if 'annotations say' in fault else 'images that cannot be read'
            report.add(Problem(kind, fault))
            del present[path]
    return present


def _compare(images: dict, present: dict, classes: dict, records: Records, report: Report) -> None:
    """What is wrong between training and validation."""
    for path, names in classes.items():
        if names != [category['name'] for category in records.categories]:
            report.add(Problem('other categories', f'not those of {path}, or in another order'))
    for first, second in shared_images(list(images), list(present)):
        report.add(Problem('images that training sees too', f'{second} is the same as {first}', fatal=False))


def _print_report(records: Records, report: Report) -> int:
    counts = Counter(annotation['category_id'] for annotation in records.annotations)
    with_objects = {annotation['image_id'] for annotation in records.annotations}
    print(
        f'{len(records.images)} images, {len(records.images) - len(with_objects)} of them without objects;'
        f' {len(records.annotations)} objects of {len(records.categories)} classes'
    )
    for category in records.categories:
        print(f'{counts[category["id"]]:>10}  {printable(category["name"])}')
    for line in report.lines():
        print(line)
    return report.errors()


def _check_maps(cfg: Config, options: argparse.Namespace) -> int:
    agree_with_data(cfg, LOADERS)
    errors, found = 0, False
    for loader in LOADERS:
        for dataset in map_datasets(cfg, loader):
            found = True
            labels = inspect_folder(cfg, dataset)
            print(f'\n{labels.summary()}')
            report = Report(options.show)
            for fatal, lines in ((True, labels.problems), (False, labels.warnings)):
                for line in lines:
                    report.add(Problem('label maps', line, fatal))
            print('\n'.join(report.lines()))
            errors += report.errors()
            if options.out and labels.pixels:
                plot_labels(options.out / f'{loader.removesuffix("_dataloader")}_classes.png', labels)
    if not found:
        raise UserError(f'{options.config} reads neither COCO annotations nor label maps; nothing is checked')
    return errors
