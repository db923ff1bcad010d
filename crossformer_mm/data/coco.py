"""Read, repair and check COCO annotation files.

The toolboxes do not check them: an unknown category, a missing field or a wrong name shows up hours later as
an obscure traceback, or as an mAP of 0. Training stops at the first fatal problem; ``crossformer check``
lists all problems, found by the same checks. What can be meant in one way only is read in this way.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..utils.errors import UserError
from ..utils.text import shorten
from .coco_boxes import LEFT_OUT, convention_problem
from .coco_ids import repair_ids
from .coco_images import (
    SIZES_READ,
    headers_of,
    missing_images,
    repair_image_sizes,
    repair_names,
    similar_files,
    size_fault,
)
from .coco_json import CONVERTED_FROM, load_json, uncollected
from .coco_records import (
    annotation_problems,
    category_problems,
    check_kinds,
    check_repeated,
    check_unused,
    image_problems,
    valid_records,
)
from .coco_repair import repair_annotations, repair_categories, repair_sizes
from .coco_values import Record, is_key, records_of
from .images import spread
from .problems import Problem, Repairs, Report


@dataclass(frozen=True)
class CocoFile:
    """The valid records of an annotation file, repaired.

    Attributes:
        repaired: Whether they differ from those in the file.
        source: What the file was converted from, for messages; empty if a user wrote it.
        notes: Lines about this conversion.
    """

    path: Path
    images: list[Record]
    categories: list[Record]
    annotations: list[Record]
    repaired: bool = False
    source: str = ''
    notes: Sequence[str] = ()

    @property
    def name(self) -> str:
        """What the file is called in messages."""
        return self.source or str(self.path)

    @property
    def classes(self) -> tuple[str, ...]:
        """Category names in the file's order, which is the order of the toolboxes' labels."""
        return tuple(category['name'] for category in self.categories)

    @property
    def image_names(self) -> tuple[str, ...]:
        """The ``file_name`` of every image, relative to the image folder."""
        return tuple(image['file_name'] for image in self.images)

    @property
    def labelled(self) -> frozenset[str]:
        """The names of the categories that have objects."""
        used = {annotation['category_id'] for annotation in self.annotations}
        return frozenset(category['name'] for category in self.categories if category['id'] in used)

    @property
    def content(self) -> Record:
        """The records as a JSON object."""
        return {'images': self.images, 'annotations': self.annotations, 'categories': self.categories}


@uncollected()
def read_coco(
    path: str | Path,
    masks: bool = True,
    objects: bool = True,
    report: Report | None = None,
    folder: str | Path | None = None,
    headers: int | None = SIZES_READ,
    ignore_exif: bool = False,
) -> CocoFile:
    """Read an annotation file, repair it, and check everything that a run relies on.

    Args:
        path: The JSON file, which is not changed.
        masks: Whether every annotation must have a ``segmentation``.
        objects: Whether there must be annotations; COCO's test-dev has none.
        report: Called with each problem; by default, the first fatal one is raised.
        folder: The folder of the images, for the repair of their names and sizes.
        headers: How many images are read to find wrong sizes; None for all.
        ignore_exif: Whether the run loads the stored pixels, without turning them.

    Returns:
        The records without fatal problems: all fields exist, have the right type, and refer to existing
        records.

    Raises:
        UserError: The file is missing or is not a JSON object; without ``report``, also if it is not a valid
            annotation file.
    """
    path, report = Path(path), report or refusing(path)
    content, plain = load_json(path)
    source, notes = _origin(content)
    if source:
        report = _naming_images(content, report)
    if masks:
        _check_masks(content, source or str(path))
    note = Repairs(report)
    if not plain:
        note('another encoding than pycocotools reads', 'UTF-16, UTF-32, or with a byte order mark')
    repair_ids(content, note)
    repair_categories(content, note)
    repair_sizes(content, note)
    if folder is not None:
        repair_names(content, folder, note)
        repair_image_sizes(content, folder, note, headers, ignore_exif)
    if problem := convention_problem(records_of(content, 'annotations'), _by_id(content, 'images')):
        report(problem)
    repair_annotations(content, note)
    images = valid_records(content, 'images', image_problems, report)
    categories = valid_records(content, 'categories', category_problems, report)
    check_kinds(images, 'images', report)
    check_kinds(categories, 'categories', report)
    check_repeated('categories of the same name', 'categories', 'name', categories, True, report)
    check_repeated('images listed twice', 'images', 'file_name', images, False, report)
    annotations = []
    if objects or content.get('annotations'):
        known = {image['id']: image for image in images}, {category['id'] for category in categories}
        annotations = valid_records(
            content, 'annotations', lambda a: annotation_problems(a, *known, masks), report
        )
        check_unused(categories, annotations, report)
    return CocoFile(path, images, categories, annotations, note.made > 0, source, notes)


def _origin(content: Record) -> tuple[str, Sequence[str]]:
    """What a file was converted from, and notes on that, if this project has converted it."""
    origin = content.get(CONVERTED_FROM)
    origin = origin if isinstance(origin, dict) else {}
    notes = origin.get('notes')
    return str(origin.get('source') or ''), [str(note) for note in notes] if isinstance(notes, list) else []


def _naming_images(content: Record, report: Report) -> Report:
    """A report that names the images of annotations, whose numbers the user has never seen.

    The readers of other formats have named the lines of objects that training leaves out.
    """
    names = {image['id']: image['file_name'] for image in content['images']}
    images = {f'annotation {a["id"]}': names[a['image_id']] for a in content['annotations']}

    def report_image(problem: Problem) -> None:
        start = re.match(r'annotation \d+', problem.what)
        if start and problem.kind != LEFT_OUT:
            problem = problem._replace(what=f'{images[start[0]]}: {problem.what}')
        if problem.kind != LEFT_OUT:
            report(problem)

    return report_image


def _check_masks(content: Record, source: str) -> None:
    """Check that objects have masks: not all formats and exports have them.

    Single ones without, in a file that was not converted, are found one by one.
    """
    annotations = records_of(content, 'annotations')
    boxes = [annotation for annotation in annotations if not annotation.get('segmentation')]
    if boxes and (CONVERTED_FROM in content or len(boxes) == len(annotations)):
        raise UserError(
            f'{source}: {len(boxes)} of {len(annotations)} objects are boxes without a mask, but this config'
            ' trains masks; take a config without, such as retinanet_crossformer_s.py'
        )


def refusing(path: str | Path, others: Report | None = None) -> Report:
    """A report that raises the first fatal problem.

    Args:
        path: The annotation file, for the message.
        others: Called with each of the other problems.
    """

    def report(problem: Problem) -> None:
        if problem.fatal:
            raise UserError(f'{path} is not a valid COCO annotation file: {problem.line()}')
        if others:
            others(problem)

    return report


def _by_id(content: Record, name: str) -> Mapping[int | str, Record]:
    return {record['id']: record for record in records_of(content, name) if is_key(record.get('id'))}


def check_images(file: CocoFile, folder: str | Path, ignore_exif: bool = False) -> None:
    """Check that every image is in its folder, and that a sample of them has the annotated sizes.

    Args:
        file: From :func:`read_coco`.
        folder: The folder that its image names are relative to.
        ignore_exif: Whether the run loads the stored pixels, without turning them.

    Raises:
        UserError: Images are missing, or have another size; the message has the first one.
    """
    missing = missing_images(file.image_names, folder)
    if missing:
        similar = similar_files(missing[:1], folder)[missing[0]]
        hint = f'; similar: {shorten(similar)}' if similar else ''
        raise UserError(
            f'{Path(folder, missing[0])} is listed in {file.name} but does not exist'
            f' ({len(missing)} of {len(file.images)} images are missing){hint}; check the image folder'
        )
    for image, header in headers_of(spread(file.images, SIZES_READ), folder, ignore_exif):
        if fault := size_fault(image, folder, header):
            raise UserError(f'{fault} ({file.name})')
