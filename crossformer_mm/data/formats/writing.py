"""What the writers of all formats share, and COCO's."""

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from ...utils.errors import UserError
from ...utils.files import files_in, write_error
from ...utils.outputs import unique_names
from ...utils.progress import MANY, progress_bar
from ..coco_json import Content
from ..coco_values import Record
from ..problems import Problem, Report
from .reading import Points


def copy_images(
    content: Content, images: Path, out: Path, report: Report, link: bool = False
) -> dict[Any, Path]:
    """Copy the images of COCO content, with a progress bar if there are many.

    Args:
        content: COCO content.
        images: The folder that its file names are relative to; those outside it lose their folders.
        out: The folder to copy to, which may have the images of other splits.
        report: Called with each image that is renamed.
        link: Make hard links instead of copies.

    Returns:
        The path of each image in the new folder, by image id; no two differ in their suffix only.

    Raises:
        UserError: An image cannot be copied.
    """
    old = [image['file_name'] for image in content['images']]
    inside = [not {'/', '..'} & {*PurePosixPath(name).parts} for name in old]
    plain = [Path(name) if kept else Path(Path(name).name) for name, kept in zip(old, inside, strict=True)]
    present = [path.relative_to(out).with_suffix('').as_posix() for path in files_in(out)]
    stems = unique_names([*present, *(path.with_suffix('').as_posix() for path in plain)])[len(present) :]
    new = [Path(f'{stem}{path.suffix}') for stem, path in zip(stems, plain, strict=True)]
    try:
        out.mkdir(parents=True, exist_ok=True)
        with progress_bar(disable=len(old) < MANY) as progress:
            for name, path in progress.track(list(zip(old, new, strict=True)), description='copy images'):
                if path.name != PurePosixPath(name).name:
                    kind = 'images renamed, since another one has the name'
                    report(Problem(kind, f'{name} → {path}', fatal=False))
                (out / path).parent.mkdir(parents=True, exist_ok=True)
                if link:
                    os.link(os.path.realpath(images / name), out / path)
                else:
                    shutil.copyfile(images / name, out / path)
    except FileNotFoundError as error:
        raise UserError(f'{error.filename}: no such image') from error
    except OSError as error:
        hint = '; copy the images instead of linking them' if link else ''
        raise UserError(f'{write_error(error)}{hint}') from error
    return {image['id']: path for image, path in zip(content['images'], new, strict=True)}


def write_text(path: Path, text: str) -> None:
    """Write a text file in UTF-8, and its folder.

    Raises:
        UserError: It cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, 'utf-8')
    except OSError as error:
        raise UserError(write_error(error, path)) from error


def objects_by_image(content: Content) -> dict[Any, list[Record]]:
    """The annotations of each image of COCO content, by its id."""
    objects: dict[Any, list[Record]] = {image['id']: [] for image in content['images']}
    for annotation in content['annotations']:
        objects[annotation['image_id']].append(annotation)
    return objects


def object_parts(annotation: Mapping[str, Any], size: tuple[int, int]) -> list[Points] | np.ndarray | None:
    """The polygons of an object, or its mask ``(H, W)`` if it has run lengths; None without a segmentation.

    Args:
        annotation: A valid record.
        size: The width and height of its image.
    """
    shape = annotation.get('segmentation')
    if not shape:
        return None
    if isinstance(shape, list):
        return [list(zip(part[::2], part[1::2], strict=True)) for part in shape if len(part) > 5]
    if isinstance(shape['counts'], list):
        shape = coco_mask.frPyObjects(shape, size[1], size[0])
    return coco_mask.decode(shape)


def write_coco(
    content: Content, images: Path, out: Path, split: str, report: Report, link: bool = False
) -> None:
    """Write a split of COCO content in the layout of COCO 2017, with copies of its images.

    Args:
        content: COCO content.
        images: The folder of its images.
        out: The folder to write ``annotations/instances_SPLIT2017.json`` and ``SPLIT2017`` to.
        split: ``'train'``, ``'val'`` or ``'test'``.
        report: Called with each image that is renamed.
        link: Make hard links of the images instead of copies.

    Raises:
        UserError: Files cannot be written.
    """
    names = copy_images(content, images, out / f'{split}2017', report, link)
    named = [{**image, 'file_name': names[image['id']].as_posix()} for image in content['images']]
    text = json.dumps({**content, 'images': named}, ensure_ascii=False)
    write_text(out / 'annotations' / f'instances_{split}2017.json', text)
