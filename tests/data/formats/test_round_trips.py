"""COCO content written as YOLO, VOC and COCO, and read again: nothing changes that the format can express."""

import json
from pathlib import Path

import numpy as np
import pytest
from format_files import contents, image, warnings
from pycocotools import mask as coco_mask

from crossformer_mm.data.coco import read_coco
from crossformer_mm.data.formats import voc, yolo
from crossformer_mm.data.formats.seams import join, outlines, split
from crossformer_mm.data.formats.writing import write_coco
from crossformer_mm.data.problems import Problem
from crossformer_mm.utils.errors import UserError

NAMES = ['zebra', 'ant "no": x', '蚂蚁 & Co']
SIZES = {'a.jpg': (100, 80), 'deep/b.jpg': (1999, 1333), 'empty.png': (64, 48)}


def encode(mask: np.ndarray) -> dict:
    rle = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {'size': rle['size'], 'counts': rle['counts'].decode()}


def drawn(polygons: list[list[float]], height: int, width: int) -> np.ndarray:
    return coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(polygons, height, width)))


@pytest.fixture
def coco(tmp_path: Path) -> dict:
    """COCO content with ids that are not 1, 2, 3, and its images in ``images``."""
    for name, (width, height) in SIZES.items():
        image(tmp_path / 'images' / name, width, height)
    rng = np.random.default_rng(0)
    annotations = []
    for key, (width, height) in zip((5, 9), SIZES.values(), strict=False):
        for number in range(8):
            left, top = rng.uniform(0, 0.5, 2) * (width, height)
            w, h = rng.uniform(0.1, 0.5, 2) * (width, height)
            box = [left, top, w, h]
            if number > 5:
                box = [round(side) for side in box]
            annotations.append(
                {
                    'image_id': key,
                    'category_id': (90, 7, 33)[number % 3],
                    'bbox': box,
                    'area': box[2] * box[3],
                }
            )
    return {
        'images': [
            {'id': key, 'file_name': name, 'width': width, 'height': height}
            for key, (name, (width, height)) in zip((5, 9, 2), SIZES.items(), strict=True)
        ],
        'annotations': [{'id': 10 + i, 'iscrowd': 0, **a} for i, a in enumerate(annotations)],
        'categories': [{'id': key, 'name': name} for key, name in zip((90, 7, 33), NAMES, strict=True)],
    }


def rows(content: dict) -> list[tuple[str, str, dict]]:
    """The objects by file, in order."""
    files = {record['id']: record['file_name'] for record in content['images']}
    names = {record['id']: record['name'] for record in content['categories']}
    found = [(files[a['image_id']], names[a['category_id']], a) for a in content['annotations']]
    return sorted(found, key=lambda row: row[0])


def assert_equal(before: dict, after: dict) -> None:
    assert [c['name'] for c in after['categories']] == [c['name'] for c in before['categories']]
    sizes = [
        sorted((i['file_name'], i['width'], i['height']) for i in content['images'])
        for content in (before, after)
    ]
    assert sizes[0] == sizes[1]
    assert len(before['annotations']) == len(after['annotations'])
    for (file, name, a), (other, label, b) in zip(rows(before), rows(after), strict=True):
        assert (file, name) == (other, label)
        np.testing.assert_allclose(b['bbox'], a['bbox'], rtol=0, atol=1e-4)


@pytest.mark.parametrize('module', [yolo, voc])
def test_boxes(tmp_path: Path, coco: dict, module: object) -> None:
    problems: list[Problem] = []
    for name in ('train', 'val'):
        module.write(coco, tmp_path / 'images', tmp_path / 'out', name, problems.append)
    layout, read, _ = contents(module, tmp_path / 'out')
    assert list(read) == ['train', 'val'] and layout.classes == tuple(NAMES)
    assert_equal(coco, read['train'])
    if module is yolo:
        assert not problems
        assert_equal(coco, read['val'])
    else:  # all images are in one folder
        assert len(problems) == 3 and 'images renamed' in problems[0].kind
        assert [i['file_name'] for i in read['val']['images']] == ['a-2.jpg', 'deep/b-2.jpg', 'empty-2.png']


def test_coco(tmp_path: Path, coco: dict) -> None:
    write_coco(coco, tmp_path / 'images', tmp_path / 'out', 'train', [].append)
    file = read_coco(tmp_path / 'out' / 'annotations' / 'instances_train2017.json', masks=False)
    assert file.content == coco and not file.repaired
    assert (tmp_path / 'out' / 'train2017' / 'deep' / 'b.jpg').is_file()


def test_flags_in_voc(tmp_path: Path, coco: dict) -> None:
    flags = [{'difficult': 1, 'truncated': 1}, {'iscrowd': 1}, {'difficult': 0, 'occluded': 1}]
    for annotation, flag in zip(coco['annotations'], flags, strict=False):
        annotation.update(flag)
    voc.write(coco, tmp_path / 'images', tmp_path / 'out', 'train', [].append)
    found = [a for *_, a in rows(contents(voc, tmp_path / 'out')[1]['train'])]
    keys = ('difficult', 'truncated', 'occluded', 'iscrowd')
    assert [tuple(a.get(key, 0) for key in keys) for a in found[:4]] == [
        (1, 1, 0, 0),
        (1, 0, 0, 1),
        (0, 0, 1, 0),
        (0, 0, 0, 0),
    ]


def test_voc_files_are_as_other_programs_read_them(tmp_path: Path, coco: dict) -> None:
    coco['annotations'] = [{**coco['annotations'][0], 'bbox': [0, 10, 100, 20.5]}]
    voc.write(coco, tmp_path / 'images', tmp_path / 'out', 'train', [].append)
    text = (tmp_path / 'out' / 'Annotations' / 'a.xml').read_text('utf-8')
    for part in ('<xmin>1</xmin>', '<ymin>11</ymin>', '<xmax>100</xmax>', '<ymax>30.5</ymax>'):
        assert part in text


def test_polygons_in_yolo(tmp_path: Path, coco: dict) -> None:
    one = [10.25, 5.5, 40.125, 8, 30, 40.75]
    parts = [one, [50.5, 10.5, 70, 12, 60, 30.25, 52, 28], [80, 60, 90.5, 60, 90.5, 70.125]]
    ring = np.zeros((80, 100))
    ring[20:60, 30:80] = 1
    ring[30:40, 50:60] = 0
    speckles = np.zeros((80, 100))
    speckles[:20, :20] = np.random.default_rng(0).random((20, 20)) < 0.4
    shapes = [[one], parts, encode(ring), encode(speckles)]
    objects = [{**coco['annotations'][i], 'segmentation': shape} for i, shape in enumerate(shapes)]
    crowd = {**coco['annotations'][4], 'segmentation': encode(ring), 'iscrowd': 1}
    coco['annotations'] = [*objects, crowd, coco['annotations'][5]]
    problems: list[Problem] = []
    yolo.write(coco, tmp_path / 'images', tmp_path / 'out', 'train', problems.append)
    assert warnings(problems) == [
        'masks of several polygons, joined into one by seams: annotation 11 in a.jpg',
        'masks of run lengths, written as the polygons around their pixels: annotation 12 in a.jpg',
        'masks of run lengths, written as the polygons around their pixels: annotation 13 in a.jpg',
        'crowds, which YOLO cannot mark, left out: annotation 14 in a.jpg',
        *(
            f'boxes that are not those around their polygons, which replace them: annotation {i} in a.jpg'
            for i in range(10, 14)
        ),
        'boxes beside polygons, written as rectangles: annotation 15 in a.jpg',
    ]
    found = [a['segmentation'] for *_, a in rows(contents(yolo, tmp_path / 'out')[1]['train'])]
    np.testing.assert_allclose(found[0][0], one, atol=1e-6)
    areas = [sorted(coco_mask.area(coco_mask.frPyObjects(shape, 80, 100))) for shape in (parts, found[1])]
    assert len(found[1]) == 3 and areas[0] == areas[1]
    for shape, mask in zip(found[2:4], (ring, speckles), strict=True):
        assert np.array_equal(drawn(shape, 80, 100), mask)
    assert len(found) == 5 and len(found[4][0]) == 8
    yolo.write(coco, tmp_path / 'images', tmp_path / 'boxes', 'train', [].append, masks=False)
    after = contents(yolo, tmp_path / 'boxes')[1]['train']
    del coco['annotations'][4]
    assert_equal(coco, after)
    assert not any('segmentation' in a for a in after['annotations'])


@pytest.mark.parametrize('seed', range(10))
def test_outlines_and_seams_keep_every_pixel(seed: int) -> None:
    rng = np.random.default_rng(seed)
    height, width = (int(side) for side in rng.integers(3, 40, 2))
    mask = (rng.random((height, width)) < rng.uniform(0.1, 0.9)).astype(np.uint8)
    mask[0, 0] = 1
    parts = outlines(mask)
    for polygons in (parts, [join(parts)], split(join(parts))):
        assert np.array_equal(drawn([np.ravel(p).tolist() for p in polygons], height, width), mask)


def test_names_outside_the_folder_and_of_equal_stem(tmp_path: Path, coco: dict) -> None:
    image(tmp_path / 'images' / 'a.png')
    image(tmp_path / 'other' / 'c.jpg')
    coco['annotations'] = []
    coco['images'] = [
        {'id': i, 'file_name': name, 'width': 100, 'height': 80}
        for i, name in enumerate(['a.jpg', 'a.png', '../other/c.jpg'])
    ]
    problems: list[Problem] = []
    yolo.write(coco, tmp_path / 'images', tmp_path / 'out', 'train', problems.append)
    assert [problem.what for problem in problems] == ['a.png → a-2.png']
    assert len(contents(yolo, tmp_path / 'out')[1]['train']['images']) == 3
    (tmp_path / 'images' / 'a.png').unlink()
    with pytest.raises(UserError, match=r'a\.png: no such image'):
        yolo.write(coco, tmp_path / 'images', tmp_path / 'again', 'train', [].append)


def test_content_passes_the_check_of_coco_files(tmp_path: Path, coco: dict) -> None:
    yolo.write(coco, tmp_path / 'images', tmp_path / 'out', 'train', [].append)
    layout, read, _ = contents(yolo, tmp_path / 'out')
    path = tmp_path / 'file.json'
    path.write_text(json.dumps(read['train']))
    file = read_coco(path, masks=False, folder=layout.splits['train'].images)
    assert not file.repaired and file.classes == tuple(NAMES)
