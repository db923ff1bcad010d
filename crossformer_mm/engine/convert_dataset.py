"""``crossformer convert-dataset``: write a dataset in another format, and divide it into splits."""

import argparse
import math
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from ..data.coco import check_images, read_coco
from ..data.coco_json import CONVERTED_FROM, Content
from ..data.coco_masks import mask_fault
from ..data.formats import voc, yolo
from ..data.formats.cache import CONVERTED, read
from ..data.formats.layout import Layout
from ..data.formats.reading import SPLITS
from ..data.formats.recognise import recognise
from ..data.formats.writing import write_coco
from ..data.images import repeated_images
from ..data.problems import Findings, Problem, Report, fatal_apart, refuse
from ..data.split import classes_by_image, divide, select
from ..utils.errors import UserError
from ..utils.files import check_folder, write_error
from ..utils.locks import NAME as LOCK
from ..utils.locks import locked
from ..utils.outputs import check_place
from ..utils.text import printable

SOURCES = ('coco', *CONVERTED)
TARGETS = {'coco': write_coco, 'yolo': yolo.write, 'voc': voc.write}
_EXTRACTED = '.extracted'  # folder for images that are only inside label files, until they are copied
_ROUNDING = 1e-6  # by how much the shares of --split may differ from 1


def dataset_parser() -> argparse.ArgumentParser:
    """The options of the command."""
    parser = argparse.ArgumentParser(
        description='Write a dataset in another format, with copies of its images. DIR is not changed, and'
        ' OUT is written whole or not at all.'
    )
    parser.add_argument('root', metavar='DIR', type=Path, help="the dataset, or YOLO's data.yaml")
    parser.add_argument(
        'out', metavar='OUT', type=Path, help='the new folder; it must not exist, or be empty'
    )
    parser.add_argument(
        '--to',
        choices=TARGETS,
        required=True,
        help='coco: annotations/instances_train2017.json, train2017/, …; yolo: data.yaml, images/train/,'
        ' labels/train/, …; voc: Annotations/, JPEGImages/, ImageSets/Main/',
    )
    parser.add_argument(
        '--ignore-exif',
        action='store_true',
        help='the labels of DIR are of the stored pixels of images that EXIF data turns; so are those of OUT',
    )
    parser.add_argument('--format', choices=SOURCES, help='the format of DIR, if it can be read as several')
    parser.add_argument(
        '--split',
        metavar='TRAIN/VAL[/TEST]',
        help="divide all images anew, such as 0.8/0.1/0.1; without it, DIR's own splits are kept",
    )
    parser.add_argument('--seed', type=int, metavar='N', help='another seed divides otherwise (0)')
    parser.add_argument('--stratify', action='store_true', help='divide with the classes in proportion')
    parser.add_argument(
        '--boxes', action='store_true', help='for yolo: write boxes, not the polygons of objects with masks'
    )
    parser.add_argument(
        '--link',
        action='store_true',
        help='make hard links instead of copies of the images; a change to one changes the other',
    )
    return parser


def convert_dataset(options: argparse.Namespace) -> None:
    """Convert a dataset, and print what was written and lost.

    Args:
        options: The options parsed by :func:`dataset_parser`.

    Raises:
        UserError: An option or the dataset is invalid, or files cannot be written.
    """
    shares = _shares(options)
    root, out, write = options.root, options.out, TARGETS[options.to]
    if options.boxes:
        if options.to != 'yolo':
            raise UserError(f'--boxes is for --to yolo; {options.to} keeps the boxes')
        write = partial(write, masks=False)
    if not root.exists():
        raise UserError(f'{root}: no such folder')
    check_folder('OUT', out)
    if out.is_dir() and any(out.iterdir()):
        raise UserError(f'{out}: is not empty; give a new folder')
    layout = _recognise(root, options.format)
    folders = [split.images for split in layout.splits.values()]
    check_place('OUT', out, [root if root.is_dir() else root.parent, *folders])
    print(printable(str(layout)))
    found, written = Findings(1), Findings(1)
    with _whole_or_not(out) as part:
        dataset = _read(layout, options, part / _EXTRACTED, found)
        for line in found.summary():
            print(printable(line))
        if shares:
            dataset = _divide(dataset, shares, options.seed or 0, options.stratify)
        for name, (folder, content) in dataset.splits.items():
            write(content, folder, part, name, written.add, link=options.link)
        shutil.rmtree(part / _EXTRACTED, ignore_errors=True)
    print(printable(_summary(out, options.to, dataset, written)))


@dataclass(frozen=True)
class _Dataset:
    """COCO content, and the folder that its file names are relative to, for each split."""

    root: Path
    splits: Mapping[str, tuple[Path, Content]]


def _shares(options: argparse.Namespace) -> dict[str, float]:
    """The share of each split by its name; empty without ``--split``."""
    if options.split is None:
        if options.seed is not None or options.stratify:
            raise UserError('--seed and --stratify are for --split, which is missing')
        return {}
    try:
        shares = [float(word) for word in options.split.split('/')]
    except ValueError:
        shares = []
    valid = len(shares) in (2, 3) and all(0 <= share < 1 for share in shares) and shares[0] > 0
    if not valid or not math.isclose(sum(shares), 1, abs_tol=_ROUNDING):
        raise UserError(
            f'--split {options.split}: give two or three shares with the sum 1, for training, validation and'
            ' testing, such as 0.8/0.1/0.1'
        )
    return {name: share for name, share in zip(SPLITS, shares, strict=False) if share}


def _recognise(root: Path, chosen: str | None) -> Layout:
    try:
        return recognise(root, 'detection', chosen)
    except UserError as error:  # there is no --data-root here
        text = error.args[0].replace(f'--data-root {root}', f'{root}').replace('--data-root', 'DIR')
        raise UserError(text.replace('that this config reads', 'that can be converted')) from error


def _read(layout: Layout, options: argparse.Namespace, place: Path, findings: Findings) -> _Dataset:
    """Read all splits; the first broken file stops the conversion."""
    fatal: list[Problem] = []
    report = fatal_apart(fatal, findings.add)
    splits = {}
    for name, split in layout.splits.items():
        content = _read_split(layout, name, options, place, report)
        refuse(fatal)
        if not content['images']:
            raise UserError(f'{split.images}: there are no labelled images')
        splits[name] = split.images, content
    names = [[category['name'] for category in content['categories']] for _, content in splits.values()]
    if any(other != names[0] for other in names):
        raise UserError(
            f'{layout.root}: its splits have different classes, or in another order; correct them'
        )
    return _Dataset(layout.root, splits)


def _read_split(
    layout: Layout, name: str, options: argparse.Namespace, place: Path, report: Report
) -> Content:
    stored = options.ignore_exif
    if layout.format == options.to == 'voc':
        return voc.read(layout, name, report, stored)
    if layout.format in CONVERTED:  # with difficult objects as crowds, as training reads them
        content = read(layout, name, report, place, stored)
        del content[CONVERTED_FROM]
        return content
    split = layout.splits[name]
    file = read_coco(split.source[0], False, False, report, split.images, None, stored)
    if options.to == 'yolo' and not options.boxes:
        _check_masks(file.content, split.source[0], report)
    check_images(file, split.images, stored)
    return file.content


def _check_masks(content: Content, path: Path, report: Report) -> None:
    """Report the masks of COCO content that are no masks; objects may have none."""
    sizes = {image['id']: (image['height'], image['width']) for image in content['images']}
    for annotation in content['annotations']:
        mask = annotation.get('segmentation')
        if mask and (fault := mask_fault(mask, *sizes[annotation['image_id']])):
            what = f'{path}: annotation {annotation["id"]} has {fault}'
            report(Problem('invalid masks', what, remedy='correct them, or write boxes alone with --boxes'))


def _divide(dataset: _Dataset, shares: Mapping[str, float], seed: int, stratify: bool) -> _Dataset:
    """Divide the images of all splits anew."""
    folder, content, labels = _joined(dataset)
    classes = {labels[name]: found if stratify else () for name, found in classes_by_image(content).items()}
    paths = {folder / name: label for name, label in labels.items()}
    same = {paths[other]: paths[first] for first, other in repeated_images(list(paths))}
    try:
        parts = divide(classes, list(shares.values()), seed, same)
    except ValueError:
        raise UserError(
            f'--split: {len(paths) - len(same)} different images are too few for {len(shares)} splits'
        ) from None
    names = [{name for name, label in labels.items() if parts[label] == i} for i in range(len(shares))]
    divided = {split: (folder, select(content, names[i])) for i, split in enumerate(shares)}
    return _Dataset(dataset.root, divided)


def _joined(dataset: _Dataset) -> tuple[Path, Content, dict[str, str]]:
    """The content of all splits, their folder, and a name of each image that does not depend on the place."""
    if len(dataset.splits) == 1:
        ((folder, content),) = dataset.splits.values()
        return folder, content, {image['file_name']: image['file_name'] for image in content['images']}
    images, annotations, labels = [], [], {}
    categories = next(iter(dataset.splits.values()))[1]['categories']
    for split, (folder, content) in dataset.splits.items():
        pairs = zip(content['categories'], categories, strict=True)
        classes = {own['id']: category['id'] for own, category in pairs}
        ids = {image['id']: len(images) + i for i, image in enumerate(content['images'], start=1)}
        for image in content['images']:
            name = str((folder / image['file_name']).absolute())
            labels[name] = f'{split}/{image["file_name"]}'
            images.append({**image, 'id': ids[image['id']], 'file_name': name})
        for annotation in content['annotations']:
            new = {'id': len(annotations) + 1, 'image_id': ids[annotation['image_id']]}
            annotations.append({**annotation, **new, 'category_id': classes[annotation['category_id']]})
    content = {'images': images, 'annotations': annotations, 'categories': categories}
    return dataset.root, content, labels


@contextmanager
def _whole_or_not(out: Path) -> Iterator[Path]:
    """A new folder beside another one, which gets its name at the end, and is removed after an error.

    What a killed process left is removed by the next one that writes to the same place.
    """
    out = out.resolve()
    part = out.parent / f'.{out.name}.crossformer_mm.part'
    with locked(part, 'OUT'):
        for left in part.iterdir():
            if left.is_dir():
                shutil.rmtree(left)
            elif left.name != LOCK:
                left.unlink()
        try:
            yield part
            (part / LOCK).unlink()
            try:
                part.rename(out)  # only onto nothing, or an empty folder
            except OSError as error:
                raise UserError(write_error(error, out)) from error
        except BaseException:
            shutil.rmtree(part, ignore_errors=True)
            raise


def _summary(out: Path, target: str, dataset: _Dataset, written: Findings) -> str:
    contents = {name: content for name, (_, content) in dataset.splits.items()}
    counts = [
        f'{name} {len(content["images"])} images with {len(content["annotations"])} objects'
        for name, content in contents.items()
    ]
    classes = len(next(iter(contents.values()))['categories'])
    changes = [f'{kind}: {count}' for (_, kind), count in written.counts.items()]
    lost = f'; {"; ".join(changes)}' if changes else '; all labels are kept'
    return f'{out}: {target}, {classes} classes, {", ".join(counts)}{lost}'
