"""Small files of the formats that other programs label data in, and COCO content to compare with."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from crossformer_mm.data.formats.layout import Layout
from crossformer_mm.data.problems import Problem

WIDTH, HEIGHT = 100, 80
TURNED = 6  # EXIF's orientation of an image that lies on its side


def image(path: Path, width: int = WIDTH, height: int = HEIGHT, orientation: int = 1) -> Path:
    """Write an image; ``orientation`` turns it when it is loaded."""
    path.parent.mkdir(parents=True, exist_ok=True)
    exif = Image.Exif()
    exif[0x112] = orientation
    Image.fromarray(np.full((height, width, 3), 128, np.uint8)).save(path, exif=exif)
    return path


def write(path: Path, text: str, encoding: str = 'utf-8') -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode(encoding))
    return path


def xml(
    name: str,
    *objects: tuple[str, Sequence[float]],
    size: tuple[int, int] | None = (WIDTH, HEIGHT),
    extra: str = '',
) -> str:
    """The text of a VOC file, with an object per line after the first two lines."""
    sizes = f'<size><width>{size[0]}</width><height>{size[1]}</height></size>' if size else ''
    lines = [f'<object><name>{label}</name>{extra}{bndbox(box)}</object>' for label, box in objects]
    return '\n'.join(['<annotation>', f'<filename>{name}</filename>{sizes}', *lines, '</annotation>'])


def bndbox(box: Sequence[float]) -> str:
    keys = ('xmin', 'ymin', 'xmax', 'ymax')
    return f'<bndbox>{"".join(f"<{k}>{v}</{k}>" for k, v in zip(keys, box, strict=True))}</bndbox>'


def labelme(name: str | None, *shapes: dict[str, Any], **fields: Any) -> str:
    """The text of a LabelMe file."""
    content = {
        'version': '5.5.0',
        'flags': {},
        'shapes': shapes,
        'imagePath': name,
        'imageData': None,
        'imageHeight': HEIGHT,
        'imageWidth': WIDTH,
        **fields,
    }
    return json.dumps(content, indent=2)


def shape(label: str, kind: str, points: Sequence[Sequence[float]], **fields: Any) -> dict[str, Any]:
    return {'label': label, 'points': points, 'group_id': None, 'shape_type': kind, 'flags': {}, **fields}


def contents(
    module: Any, root: Path, **options: Any
) -> tuple[Layout, dict[str, dict[str, Any]], list[Problem]]:
    """The only layout that a format finds, the content of each split, and all problems."""
    (layout,) = module.find(root)
    problems: list[Problem] = []
    return (
        layout,
        {split: module.read(layout, split, problems.append, **options) for split in layout.splits},
        problems,
    )


def objects(content: dict[str, Any]) -> Iterator[tuple[str, str, list[float]]]:
    """The file, class and box of each object."""
    files = {record['id']: record['file_name'] for record in content['images']}
    names = {record['id']: record['name'] for record in content['categories']}
    for record in content['annotations']:
        box = [round(number, 3) for number in record['bbox']]
        yield files[record['image_id']], names[record['category_id']], box


def fatal(problems: Sequence[Problem]) -> list[str]:
    return [problem.line() for problem in problems if problem.fatal]


def warnings(problems: Sequence[Problem]) -> list[str]:
    return [f'{problem.kind}: {problem.what}' for problem in problems if not problem.fatal]
