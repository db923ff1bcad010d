"""Annotation files: the content that is read, and a one-line error for every kind of damage."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mmengine.config import Config

from crossformer_mm.data.coco import check_images, read_coco
from crossformer_mm.data.datasets import trains_masks
from crossformer_mm.utils.errors import UserError

SQUARE = [[1.0, 1.0, 9.0, 1.0, 9.0, 9.0, 1.0, 9.0]]


def content() -> dict[str, Any]:
    """A valid file: two images, the second in a folder and without objects, and two classes."""
    box = {'bbox': [1, 1, 8, 8], 'area': 64, 'iscrowd': 0, 'segmentation': SQUARE}
    return {
        'images': [
            {'id': 1, 'file_name': 'a.jpg', 'height': 32, 'width': 48},
            {'id': 2, 'file_name': 'sub/b.jpg', 'height': 32, 'width': 48},
        ],
        'annotations': [
            {'id': 1, 'image_id': 1, 'category_id': 7, **box},
            {'id': 2, 'image_id': 1, 'category_id': 3, **box},
        ],
        'categories': [{'id': 7, 'name': 'nut'}, {'id': 3, 'name': 'fig'}],
    }


def write(folder: Path, data: Any) -> Path:
    path = folder / 'annotations.json'
    path.write_text(json.dumps(data))
    return path


def test_classes_come_in_the_files_order(tmp_path: Path) -> None:
    file = read_coco(write(tmp_path, content()))
    assert file.classes == ('nut', 'fig')
    assert file.image_names == ('a.jpg', 'sub/b.jpg')


def set_in(place: str, field: str, value: Any) -> Callable[[dict], None]:
    return lambda data: data[place][0].__setitem__(field, value)


def drop(place: str, field: str) -> Callable[[dict], None]:
    return lambda data: data[place][0].pop(field)


DAMAGES = {
    'no images': (lambda d: d.pop('images'), '"images" is empty, missing or not a list'),
    'categories a dict': (lambda d: d.update(categories={}), '"categories" is empty'),
    'a number among the images': (lambda d: d['images'].append(5), r'images\[2\] is not an object: 5'),
    'no file name': (drop('images', 'file_name'), r'images\[0\] has no "file_name"'),
    'width a word': (set_in('images', 'width', 'wide'), "image 1 has the width 'wide'"),
    'image twice': (set_in('images', 'id', 2), 'the id 2 occurs more than once in "images"'),
    'unlisted category': (
        set_in('annotations', 'category_id', 4),
        'annotation 1 has the category_id 4, which "categories" does not list',
    ),
    'unlisted image': (
        set_in('annotations', 'image_id', 9),
        'annotation 1 has the image_id 9, which "images" does not list',
    ),
    'infinite area': (set_in('annotations', 'area', float('inf')), 'annotation 1 has the area inf'),
    'iscrowd a word': (set_in('annotations', 'iscrowd', 'no'), "annotation 1 has the iscrowd 'no'"),
    'box of three': (set_in('annotations', 'bbox', [1, 2, 3]), r'annotation 1 has the bbox \[1, 2'),
    'box with NaN': (set_in('annotations', 'bbox', [1, 2, 3, float('nan')]), 'has the bbox'),
    'no mask': (drop('annotations', 'segmentation'), 'annotation 1 has no segmentation'),
    'two classes of one name': (set_in('categories', 'name', 'fig'), 'two categories .*"fig"'),
    'class name a list': (set_in('categories', 'name', ['nut']), r"a category has the name \['nut'\]"),
}


@pytest.mark.parametrize('damage', DAMAGES)
def test_damage_is_named(tmp_path: Path, damage: str) -> None:
    data = content()
    change, message = DAMAGES[damage]
    change(data)
    path = write(tmp_path, data)
    with pytest.raises(UserError, match=message) as raised:
        read_coco(path)
    assert str(path) in str(raised.value)
    assert '\n' not in str(raised.value)


def test_boxes_alone_serve_a_network_without_masks(tmp_path: Path) -> None:
    data = content()
    drop('annotations', 'segmentation')(data)
    file = read_coco(write(tmp_path, data), masks=False)
    assert len(file.annotations) == 2
    assert file.labelled == {'nut', 'fig'}


@pytest.mark.parametrize('annotations', [None, []])
def test_images_and_categories_alone_where_no_objects_are_needed(
    tmp_path: Path, annotations: list | None
) -> None:
    data = content()
    del data['annotations']
    if annotations is not None:
        data['annotations'] = annotations
    path = write(tmp_path, data)
    file = read_coco(path, objects=False)
    assert (file.classes, file.annotations) == (('nut', 'fig'), [])
    with pytest.raises(UserError, match='"annotations" is empty, missing or not a list'):
        read_coco(path)


def test_objects_that_are_there_are_checked_all_the_same(tmp_path: Path) -> None:
    data = content()
    set_in('annotations', 'category_id', 4)(data)
    with pytest.raises(UserError, match='category_id 4'):
        read_coco(write(tmp_path, data), objects=False)


@pytest.mark.parametrize(
    ('written', 'message'),
    [
        (b'', 'is not valid JSON'),
        (b'\xff\xd8\xff\xe0', 'is not valid JSON'),
        (json.dumps(content()).encode()[:-40], 'is not valid JSON .*is the file complete'),
        (b'[1, 2]', 'its top level is a list'),
        (b'[' * 100_000, 'is not valid JSON'),
    ],
)
def test_what_is_no_coco_file(tmp_path: Path, written: bytes, message: str) -> None:
    path = tmp_path / 'annotations.json'
    path.write_bytes(written)
    with pytest.raises(UserError, match=message):
        read_coco(path)


def test_no_file_and_a_folder_in_its_place(tmp_path: Path) -> None:
    with pytest.raises(UserError, match='no such annotation file'):
        read_coco(tmp_path / 'none.json')
    with pytest.raises(UserError, match="is a folder; COCO's format has one JSON file"):
        read_coco(tmp_path)


def test_images_are_looked_up_in_their_folders(tmp_path: Path) -> None:
    file = read_coco(write(tmp_path, content()))
    (tmp_path / 'sub').mkdir()
    (tmp_path / 'a.jpg').touch()
    (tmp_path / 'b.jpg').touch()  # not where the file says
    with pytest.raises(UserError, match=r'sub/b\.jpg is listed .*\(1 of 2 images are missing\)'):
        check_images(file, tmp_path)
    (tmp_path / 'sub' / 'b.jpg').touch()
    check_images(file, tmp_path)
    with pytest.raises(UserError, match='2 of 2 images are missing'):
        check_images(file, tmp_path / 'nowhere')


def test_a_file_of_boxes_alone_names_a_config_without_masks(tmp_path: Path) -> None:
    data = content()
    for annotation in data['annotations']:
        annotation['segmentation'] = []  # as in Roboflow's exports of boxes
    path = write(tmp_path, data)
    with pytest.raises(
        UserError, match=r'2 of 2 objects are boxes without a mask.*retinanet_crossformer_s\.py'
    ):
        read_coco(path)
    assert len(read_coco(path, masks=False).annotations) == 2


def test_masks_are_needed_if_there_is_a_mask_head(config: Callable[[str], Config]) -> None:
    cfg = config('mask_rcnn_crossformer_s')
    assert trains_masks(cfg)
    cfg.model.roi_head.mask_head = None
    assert not trains_masks(cfg)
    assert not trains_masks(config('retinanet_crossformer_s'))
