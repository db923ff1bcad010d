"""LabelMe: where label files and images are, every kind of shape, and a line for all that is wrong."""

import base64
import json
import math
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from format_files import TURNED, contents, fatal, image, labelme, objects, shape, warnings, write
from PIL import Image
from pycocotools import mask as coco_mask

from crossformer_mm.data.formats import labelme as reader

TRIANGLE = [[10.5, 20.25], [30.5, 20.25], [30.5, 60.25]]
BOX = [10.5, 20.25, 20, 40]


def sample(root: Path, *shapes: dict, **fields: object) -> tuple[dict, list]:
    """The content of a dataset of one image, and the problems."""
    image(root / 'a.jpg')
    write(root / 'a.json', labelme('a.jpg', *(shapes or [shape('ant', 'polygon', TRIANGLE)]), **fields))
    _, read, problems = contents(reader, root)
    return read['train'], problems


@pytest.mark.parametrize(
    ('images', 'labels', 'path', 'splits'),
    [
        ('.', '.', 'a.jpg', ['train']),
        ('images', 'annotations', '..\\images\\a.jpg', ['train']),
        ('images', 'labels', '/home/them/images/a.jpg', ['train']),
        ('images', 'images', 'other/a.jpg', ['train']),
        ('{}', '{}', 'a.jpg', ['train', 'val']),
        ('{}/images', '{}/json', 'C:\\them\\a.jpg', ['train', 'val']),
        ('images/{}', 'labels/{}', '../../images/{}/a.jpg', ['train', 'val']),
        ('photos', 'photos', 'renamed.jpg', ['train']),
    ],
)
def test_folders(tmp_path: Path, images: str, labels: str, path: str, splits: list[str]) -> None:
    for split in splits:
        image(tmp_path / images.format(split) / 'a.jpg')
        text = labelme(path.format(split), shape('ant', 'polygon', TRIANGLE))
        write(tmp_path / labels.format(split) / 'a.json', text)
    layout, read, problems = contents(reader, tmp_path)
    assert list(read) == splits and not problems
    for split, content in read.items():
        ((file, *rest),) = objects(content)
        assert rest == ['ant', BOX]
        assert (layout.splits[split].images / file) == tmp_path / images.format(split) / 'a.jpg'


def test_images_of_other_names_and_of_the_same_name(tmp_path: Path) -> None:
    for name in ('one/a', 'two/a', 'two/b'):
        image(tmp_path / 'images' / f'{name}.jpg')
        path = 'C:\\them\\b.jpg' if name == 'two/b' else 'a.jpg'
        write(tmp_path / 'labels' / name.replace('b', 'c.json').replace('a', 'a.json'), labelme(path))
    _, read, problems = contents(reader, tmp_path)
    assert [i['file_name'] for i in read['train']['images']] == ['one/a.jpg', 'two/a.jpg', 'two/b.jpg']
    assert not problems


def test_a_missing_image_is_not_that_of_another_folder(tmp_path: Path) -> None:
    for name in ('one/a', 'two/b'):
        image(tmp_path / 'images' / f'{name}.jpg')
    for name in ('one/a', 'one/b'):
        write(tmp_path / 'labels' / f'{name}.json', labelme(f'{name[-1]}.jpg'))
    _, read, problems = contents(reader, tmp_path)
    assert [i['file_name'] for i in read['train']['images']] == ['one/a.jpg']
    missing = tmp_path / 'labels' / 'one' / 'b.json'
    said = f'label files without an image, ignored: {missing} (its imagePath is "b.jpg")'
    assert said in warnings(problems)


def test_polygons_are_exact(tmp_path: Path) -> None:
    content, problems = sample(
        tmp_path, shape('ant', 'polygon', TRIANGLE), shape('bee', 'polygon', TRIANGLE[::-1])
    )
    first, second = content['annotations']
    assert first['segmentation'] == [[10.5, 20.25, 30.5, 20.25, 30.5, 60.25]]
    assert (first['bbox'], first['area'], second['area']) == (BOX, 400, 400) and not problems


def test_rectangles_from_any_corner(tmp_path: Path) -> None:
    content, _ = sample(tmp_path, shape('ant', 'rectangle', [[30.5, 20.25], [10.5, 60.25]]))
    (found,) = content['annotations']
    assert found['bbox'] == BOX and found['area'] == 800
    assert found['segmentation'] == [[10.5, 20.25, 30.5, 20.25, 30.5, 60.25, 10.5, 60.25]]


def test_circles(tmp_path: Path) -> None:
    content, _ = sample(tmp_path, shape('ant', 'circle', [[40, 30], [43, 34]]))
    (found,) = content['annotations']
    assert found['bbox'] == pytest.approx([35, 25, 10, 10])
    assert found['area'] == pytest.approx(25 * math.pi, rel=0.002)


def test_groups_are_one_object(tmp_path: Path) -> None:
    moved = [[x + 40, y] for x, y in TRIANGLE]
    shapes = [
        shape('ant', 'polygon', TRIANGLE, group_id=1),
        shape('ant', 'polygon', TRIANGLE),
        shape('bee', 'polygon', TRIANGLE, group_id=1),
        shape('ant', 'polygon', moved, group_id=1),
        shape('ant', 'polygon', moved, group_id=0),
    ]
    content, _ = sample(tmp_path, *shapes)
    assert [(len(a['segmentation']), a['category_id'], a['area']) for a in content['annotations']] == [
        (2, 1, 800),
        (1, 1, 400),
        (1, 2, 400),
        (1, 1, 400),
    ]
    assert content['annotations'][0]['bbox'] == [10.5, 20.25, 60, 40]


def png(mask: np.ndarray) -> str:
    Image.fromarray(mask.astype(bool)).save(buffer := BytesIO(), 'PNG')
    return base64.b64encode(buffer.getvalue()).decode()


def test_masks_with_holes(tmp_path: Path) -> None:
    mask = np.ones((10, 20), bool)
    mask[3:5, 4:8] = False
    points = [[5, 7], [24, 16]]
    content, problems = sample(
        tmp_path,
        shape('ant', 'mask', points, mask=png(mask)),
        shape('bee', 'mask', points, mask=png(mask), group_id=2),
        shape('bee', 'rectangle', [[50, 50], [60, 60]], group_id=2),
        shape('ant', 'mask', [[-2, -1], [17, 8]], mask=png(mask)),
    )
    whole = np.zeros((80, 100), bool)
    whole[7:17, 5:25] = mask
    first, second, third = (coco_mask.decode(a['segmentation']) for a in content['annotations'])
    assert np.array_equal(first, whole)
    assert content['annotations'][0]['bbox'] == [5, 7, 20, 10] and content['annotations'][0]['area'] == 192
    whole[50:60, 50:60] = True
    assert np.array_equal(second, whole)
    assert np.array_equal(third[:9, :18], mask[1:, 2:]) and third.sum() == mask[1:, 2:].sum()
    assert not problems and isinstance(json.dumps(content), str)


def test_flags(tmp_path: Path) -> None:
    content, _ = sample(
        tmp_path,
        shape('ant', 'polygon', TRIANGLE, flags={'difficult': True, 'truncated': False}),
        shape('ant', 'polygon', TRIANGLE, flags={'iscrowd': True}),
    )
    first, second = content['annotations']
    assert (first['difficult'], first['iscrowd'], 'truncated' in first) == (1, 0, False)
    assert second['iscrowd'] == 1


def test_shapes_without_area_are_left_out(tmp_path: Path) -> None:
    shapes = [
        shape('way', 'linestrip', TRIANGLE),
        shape('dot', 'point', [[1, 1]]),
        shape('__ignore__', 'polygon', TRIANGLE),
    ]
    content, problems = sample(tmp_path, shape('ant', 'polygon', TRIANGLE), *shapes)
    assert len(content['annotations']) == 1
    assert [category['name'] for category in content['categories']] == ['ant']
    kinds = [line.partition(', left out')[0] for line in warnings(problems)]
    assert kinds == [
        f'shapes without area or class ({kind})' for kind in ('linestrip', 'point', '__ignore__')
    ]


@pytest.mark.parametrize(
    ('fields', 'message'),
    [
        ({'shape_type': 'cube'}, "is a 'cube' of 3 points"),
        ({'shape_type': 'circle', 'points': [[1, 1]]}, "is a 'circle' of 1 points"),
        ({'points': [[1, 1], [2, 'x'], [3, 3]]}, "has the point [2, 'x']"),
        ({'points': [1, 2, 3]}, 'has the points [1, 2, 3]'),
        ({'shape_type': 'mask', 'mask': 'x'}, 'has a mask that is not an image'),
    ],
)
def test_broken_shapes_name_the_line(tmp_path: Path, fields: dict, message: str) -> None:
    broken = {**shape('ant', 'polygon', TRIANGLE), **fields}
    content, problems = sample(tmp_path, shape('ant', 'polygon', TRIANGLE), broken)
    lines = (tmp_path / 'a.json').read_text().splitlines()
    number = [i for i, line in enumerate(lines, 1) if '"points"' in line][1]
    (line,) = fatal(problems)
    assert line.startswith(f'{tmp_path / "a.json"}, line {number}: "ant" {message}')
    assert len(content['annotations']) == 1


def test_broken_files(tmp_path: Path) -> None:
    sample(tmp_path)
    broken = write(tmp_path / 'b.json', '{\n"shapes": [\n')
    other = write(tmp_path / 'other.json', '[]')
    orphan = write(tmp_path / 'c.json', labelme('c.jpg'))
    unlabelled = image(tmp_path / 'd.jpg')
    _, read, problems = contents(reader, tmp_path)
    (line,) = fatal(problems)
    assert line.startswith(f'{broken}, line 3: ')
    assert warnings(problems) == [
        f'label files without an image, ignored: {orphan} (its imagePath is "c.jpg")',
        f"JSON files that are not LabelMe's, ignored: {other}",
        f'images without a label file, left out: {unlabelled}',
    ]
    assert len(read['train']['images']) == 1


def test_two_files_for_one_image(tmp_path: Path) -> None:
    sample(tmp_path)
    write(tmp_path / 'b.json', labelme('a.jpg'))
    (line,) = fatal(contents(reader, tmp_path)[2])
    assert line == f'{tmp_path / "a.jpg"}; remove the others'


@pytest.mark.parametrize(
    ('height', 'orientation', 'fault'), [(80, 1, 0), (None, 1, 0), (81, 1, 1), (80, TURNED, 1)]
)
def test_sizes(tmp_path: Path, height: int | None, orientation: int, fault: int) -> None:
    image(tmp_path / 'a.jpg', orientation=orientation)
    write(tmp_path / 'a.json', labelme('a.jpg', imageHeight=height))
    _, read, problems = contents(reader, tmp_path)
    assert len(fatal(problems)) == fault and len(read['train']['images']) == 1 - fault


def test_images_inside_label_files(tmp_path: Path) -> None:
    data = image(tmp_path / 'x.jpg').read_bytes()
    (tmp_path / 'x.jpg').unlink()
    text = labelme('a.jpg', shape('ant', 'polygon', TRIANGLE), imageData=base64.b64encode(data).decode())
    write(tmp_path / 'set' / 'a.json', text)
    _, _, problems = contents(reader, tmp_path / 'set')
    assert 'its image is only inside the file; save it beside the file as a.jpg' in fatal(problems)[0]
    _, read, problems = contents(reader, tmp_path / 'set', extracted=tmp_path / 'out')
    ((file, *rest),) = objects(read['train'])
    assert rest == ['ant', BOX] and not problems
    assert Path(file).read_bytes() == data and Path(file).parent == tmp_path / 'out'


@pytest.mark.parametrize('encoding', ['utf-8', 'utf-8-sig', 'utf-16', 'gbk', 'cp1252'])
def test_encodings(tmp_path: Path, encoding: str) -> None:
    name = 'Größe' if encoding == 'cp1252' else '蚂蚁'
    image(tmp_path / 'a.jpg')
    text = labelme('a.jpg', shape('?', 'polygon', TRIANGLE)).replace('?', name)
    write(tmp_path / 'a.json', text, encoding)
    assert [c['name'] for c in contents(reader, tmp_path)[1]['train']['categories']] == [name]


def test_order_of_classes(tmp_path: Path) -> None:
    write(tmp_path / 'labels.txt', '__ignore__\n_background_\nwasp\nant\n')
    content, _ = sample(tmp_path)
    assert [category['name'] for category in content['categories']] == ['wasp', 'ant']
    assert [name for _, name, _ in objects(content)] == ['ant']


def test_other_json_is_not_labelmes(tmp_path: Path) -> None:
    write(tmp_path / 'a.json', '{"images": [], "annotations": [], "categories": []}')
    assert not list(reader.find(tmp_path)) and not list(reader.find(tmp_path / 'nowhere'))
