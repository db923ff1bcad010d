"""Annotation files that can be meant in one way only are read in this way."""

import contextlib
import io
import json
import shutil
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from mmdet.registry import DATASETS
from mmengine.config import Config
from mmengine.registry import init_default_scope
from PIL import Image
from pycocotools.coco import COCO

from crossformer_mm.data.classes import read_data, set_classes, set_copies
from crossformer_mm.data.coco import CocoFile, check_images, read_coco
from crossformer_mm.data.coco_json import save_copy
from crossformer_mm.data.coco_use import images_used, use_problems
from crossformer_mm.data.options import DataOptions, set_data_paths
from crossformer_mm.data.problems import Findings
from crossformer_mm.evaluation.coco_report import with_original_ids
from crossformer_mm.utils.errors import UserError

SQUARE = [[1.0, 1.0, 9.0, 1.0, 9.0, 9.0, 1.0, 9.0]]
TRAIN = 'annotations/instances_train2017.json'
Change = Callable[[dict], Any]


def content() -> dict[str, Any]:
    """A valid file of two images and two classes."""
    box = {'bbox': [1, 1, 8, 8], 'area': 64, 'iscrowd': 0, 'segmentation': SQUARE}
    return {
        'images': [
            {'id': 1, 'file_name': 'a.jpg', 'height': 32, 'width': 48},
            {'id': 2, 'file_name': 'é.jpg', 'height': 32, 'width': 48},
        ],
        'annotations': [
            {'id': 1, 'image_id': 1, 'category_id': 7, **box},
            {'id': 2, 'image_id': 2, 'category_id': 3, **box},
        ],
        'categories': [{'id': 7, 'name': 'nut'}, {'id': 3, 'name': 'fïg'}],
    }


def read(root: Path, data: dict, **settings: Any) -> CocoFile:
    path = root / 'annotations.json'
    path.write_text(json.dumps(data))
    return read_coco(path, **settings)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """A folder with the images of :func:`content`."""
    folder = tmp_path / 'images'
    folder.mkdir()
    for name in ('a.jpg', 'é.jpg'):
        Image.new('RGB', (48, 32)).save(folder / name)
    return folder


def loaded(path: str | Path) -> COCO:
    with contextlib.redirect_stdout(io.StringIO()):
        return COCO(str(path))


@pytest.mark.parametrize('encoding', ['utf-8-sig', 'utf-16', 'utf-16-le', 'utf-32'])
def test_encodings(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / 'annotations.json'
    path.write_bytes(json.dumps(content(), ensure_ascii=False).encode(encoding))
    file = read_coco(path)
    assert file.classes == ('nut', 'fïg')
    assert file.repaired
    copy = save_copy(file.content, tmp_path / 'copies', 'annotations')
    assert [category['name'] for category in loaded(copy).dataset['categories']] == ['nut', 'fïg']


def test_a_valid_file_is_used_as_it_is(tmp_path: Path, images: Path) -> None:
    data = content()
    file = read(tmp_path, data, folder=images)
    assert not file.repaired
    assert file.content == data


def test_other_encodings_than_unicode_are_refused(tmp_path: Path) -> None:
    path = tmp_path / 'annotations.json'
    path.write_bytes(json.dumps(content(), ensure_ascii=False).encode('latin-1'))
    with pytest.raises(UserError, match=r'not valid JSON .*; save it as UTF-8'):
        read_coco(path)


def first(place: str, **values: Any) -> Change:
    return lambda data: data[place][0].update(values)


def without(place: str, *fields: str) -> Change:
    return lambda data: [record.pop(field) for record in data[place] for field in fields]


def text_ids(data: dict) -> None:
    for image in data['images']:
        image['id'] = f'0{image["id"]}'
    for annotation in data['annotations']:
        annotation['image_id'] = f'0{annotation["image_id"]}'
    data['images'][1]['id'] = 5
    data['annotations'][1]['image_id'] = 5


# What is changed, and what is read then, as expressions of the file.
REPAIRS = {
    'no iscrowd': (without('annotations', 'iscrowd'), {'f.annotations[1]["iscrowd"]': 0}),
    'iscrowd as text': (first('annotations', iscrowd='1'), {'f.annotations[0]["iscrowd"]': 1}),
    'ignore as text': (first('annotations', ignore='0'), {'f.annotations[0]["ignore"]': 0}),
    'no area': (
        lambda d: (
            without('annotations', 'area')(d),
            first('annotations', segmentation=[[1, 1, 9, 1, 1, 9]])(d),
        ),
        {'26 < f.annotations[0]["area"] < 38': True, 'f.annotations[1]["area"]': 64},
    ),
    'no area, no mask': (without('annotations', 'area', 'segmentation'), {'f.annotations[0]["area"]': 64}),
    'area 0': (first('annotations', area=0), {'f.annotations[0]["area"]': 64}),
    'area a word': (first('annotations', area='big'), {'f.annotations[0]["area"]': 64}),
    'area NaN': (first('annotations', area=float('nan')), {'f.annotations[0]["area"]': 64}),
    'no box': (without('annotations', 'bbox'), {'f.annotations[0]["bbox"]': [1, 1, 8, 8]}),
    'box null, run lengths': (
        first('annotations', bbox=None, segmentation={'size': [32, 48], 'counts': [33, 4, 28, 4, 1467]}),
        {'f.annotations[0]["bbox"]': [1, 1, 2, 4]},
    ),
    'box of text': (
        first('annotations', bbox=['1', 1, '8.0', 8]),
        {'f.annotations[0]["bbox"]': [1, 1, 8, 8]},
    ),
    'polygon not in a list': (
        first('annotations', segmentation=SQUARE[0]),
        {'f.annotations[0]["segmentation"]': SQUARE},
    ),
    'polygon of points': (
        first('annotations', segmentation=[[1, 1], [9, 1], [9, 9], [1, 9]]),
        {'f.annotations[0]["segmentation"]': SQUARE},
    ),
    'polygons of points': (
        first('annotations', segmentation=[[[1, 1], [9, 1], [9, 9], [1, 9]]]),
        {'f.annotations[0]["segmentation"]': SQUARE},
    ),
    'sizes with decimals': (first('images', height=32.0, width='48.0'), {'f.images[0]["width"]': 48}),
    'annotation ids from 0': (
        lambda d: [a.update(id=a['id'] - 1) for a in d['annotations']],
        {'sorted(a["id"] for a in f.annotations)': [1, 2]},
    ),
    'annotation ids of text': (
        lambda d: [a.update(id=f'x{a["id"]}') for a in d['annotations']],
        {'sorted(a["id"] for a in f.annotations)': [1, 2]},
    ),
    'no annotation ids': (without('annotations', 'id'), {'[a["id"] for a in f.annotations]': [1, 2]}),
    'one annotation id for two objects': (
        lambda d: d['annotations'][1].update(id=1),
        {'[a["id"] for a in f.annotations]': [1, 2]},
    ),
    'an object listed twice': (
        lambda d: d['annotations'].append(dict(d['annotations'][0])),
        {'len(f.annotations)': 2},
    ),
    'an image listed twice': (
        lambda d: d['images'].append(d['images'][0] | {'license': 1}),
        {'len(f.images)': 2},
    ),
    'references as text': (
        lambda d: d['annotations'][0].update(image_id='1', category_id=7.0),
        {'f.annotations[0]["image_id"]': 1, 'type(f.annotations[0]["category_id"])': int},
    ),
    'ids of digits beside numbers': (
        lambda d: [i.update(id=str(i['id'])) for i in d['images'][:1] + d['categories'][:1]],
        {'[i["id"] for i in f.images]': [1, 2], '[c["id"] for c in f.categories]': [7, 3]},
    ),
    'ids of text beside numbers': (
        text_ids,
        {
            '[i["id"] for i in f.images]': ['01', '5'],
            '[a["image_id"] for a in f.annotations]': ['01', '5'],
            'f.images[1]["original_id"]': 5,
        },
    ),
    'ids that floats do not hold': (
        lambda d: (
            [i.update(id=2**53 + i['id']) for i in d['images']]
            + [a.update(image_id=2**53 + a['image_id']) for a in d['annotations']]
        ),
        {'f.images[0]["id"]': str(2**53 + 1), 'f.annotations[1]["image_id"]': str(2**53 + 2)},
    ),
    'class names that are numbers': (first('categories', name=0), {'f.classes': ('0', 'fïg')}),
    'class without a name': (without('categories', 'name'), {'f.classes': ('class 7', 'class 3')}),
    "Roboflow's category 0": (
        lambda d: d['categories'].insert(0, {'id': 0, 'name': 'nut', 'supercategory': 'none'}),
        {'f.categories[0]["id"]': 7, 'len(f.classes)': 2},
    ),
}


@pytest.mark.parametrize('name', REPAIRS)
def test_repairs(tmp_path: Path, name: str) -> None:
    data = content()
    change, expected = REPAIRS[name]
    change(data)
    findings = Findings(1)
    file = read(tmp_path, data, masks='mask' not in name, report=findings.add)
    assert findings.errors() == 0
    assert findings.counts, 'each repair is reported'
    assert file.repaired
    assert {expression: eval(expression, {'f': file}) for expression in expected} == expected
    assert loaded(save_copy(file.content, tmp_path / 'copies', 'x')).dataset['images'] == file.images


AMBIGUOUS = {
    'a number and the same as text': lambda d: d['images'][1].update(id='1'),
    'one id for two images': lambda d: d['images'][1].update(id=1),
    'two used classes of one name': lambda d: d['categories'][1].update(name='nut'),
    'no mask and no box': without('annotations', 'bbox', 'segmentation'),
    'unknown image': lambda d: d['annotations'][0].update(image_id='7'),
    'a side that no float holds, and no area': lambda d: d['annotations'][0].update(
        bbox=[1, 1, 10**400, 8], area=None, segmentation=None
    ),
}


@pytest.mark.parametrize('name', AMBIGUOUS)
def test_what_can_be_meant_in_two_ways_is_refused(tmp_path: Path, name: str) -> None:
    data = content()
    AMBIGUOUS[name](data)
    with pytest.raises(UserError, match='is not a valid COCO annotation file'):
        read(tmp_path, data, masks=False)


@pytest.mark.parametrize('place', [0, 2])
def test_parent_category_of_an_unused_class(tmp_path: Path, place: int) -> None:
    """The class keeps its place, so that training and validation agree."""
    data = content()
    data['categories'] = [
        {'id': 7, 'name': 'nut', 'supercategory': 'fig'},
        {'id': 3, 'name': 'fig', 'supercategory': 'fig'},
    ]
    data['categories'].insert(place, {'id': 0, 'name': 'fig', 'supercategory': 'none'})
    data['annotations'].pop()
    assert [category['id'] for category in read(tmp_path, data).categories] == [7, 3]


NAMES = {
    'A.JPG': 'a.jpg',
    'a': 'a.jpg',
    'a.jpeg': 'a.jpg',
    ' a.jpg': 'a.jpg',
    'train\\a.jpg': 'a.jpg',
    'C:\\Users\\me\\images\\a.jpg': 'a.jpg',
    '/home/me/images/a.jpg': 'a.jpg',
    'images/images/a.jpg': 'a.jpg',
    unicodedata.normalize('NFD', 'é.jpg'): 'é.jpg',
    'É.jpg': 'é.jpg',
    'c.jpg': 'Deep/er/c.jpg',
    'er\\C.jpg': 'Deep/er/c.jpg',
    'd.jfif': 'd.jfif',
    'd': 'd.jfif',
    'e': 'e',
}


@pytest.mark.parametrize(('name', 'file'), NAMES.items())
def test_names_that_can_only_mean_one_file(tmp_path: Path, images: Path, name: str, file: str) -> None:
    (images / 'Deep' / 'er').mkdir(parents=True)
    for copy in ('Deep/er/c.jpg', 'd.jfif', 'e'):
        shutil.copy(images / 'a.jpg', images / copy)
    (images / 'a.txt').touch()
    data = content()
    data['images'] = [{**data['images'][0], 'file_name': name}]
    data['annotations'].pop()
    read_file = read(tmp_path, data, folder=images)
    assert read_file.image_names == (file,)
    assert read_file.repaired == (name != file)
    check_images(read_file, images)


@pytest.mark.parametrize(
    ('name', 'files', 'similar'),
    [
        ('b.jpg', ('one/b.jpg', 'two/b.jpg'), r'similar: one/b\.jpg, two/b\.jpg; '),
        ('three/b.jpg', ('one/b.jpg',), r'missing\); check'),  # of another folder
        ('A.jpg', (), r'similar: a\.jpg; '),  # listed itself
        ('a.png', (), r'missing\); check'),  # such as a mask of a.jpg
        ('g', ('g.jpg', 'g.png'), r'similar: g\.jpg, g\.png; '),
    ],
)
def test_names_that_can_mean_several_files(
    tmp_path: Path, images: Path, name: str, files: tuple[str, ...], similar: str
) -> None:
    for file in files:
        (images / file).parent.mkdir(exist_ok=True)
        shutil.copy(images / 'a.jpg', images / file)
    data = content()
    data['images'][1]['file_name'] = name
    file = read(tmp_path, data, folder=images)
    assert file.image_names == ('a.jpg', name)
    with pytest.raises(UserError, match=similar):
        check_images(file, images)


def test_sizes_of_the_files(tmp_path: Path, images: Path) -> None:
    data = content()
    del data['images'][0]['height'], data['images'][0]['width']
    data['images'][1].update(height=48, width=32)
    data['annotations'][1]['bbox'] = [30, 1, 8, 8]
    file = read(tmp_path, data, folder=images)
    assert [(image['height'], image['width']) for image in file.images] == [(32, 48)] * 2
    check_images(file, images)


def test_objects_of_a_turned_image_are_not_of_the_file(tmp_path: Path, images: Path) -> None:
    data = content()
    data['images'][1].update(height=48, width=32)
    data['annotations'][1].update(bbox=[1, 30, 8, 16], segmentation=[[1, 30, 9, 30, 9, 46]])
    with pytest.raises(UserError, match=r'é\.jpg has 48×32 pixels, .* say 32×48; its objects would'):
        check_images(read(tmp_path, data, folder=images), images)


def test_images_that_exif_turns(tmp_path: Path, images: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new('RGB', (48, 32)).save(images / 'a.jpg', exif=exif)
    file = read(tmp_path, content(), folder=images)
    assert not file.repaired
    with pytest.raises(
        UserError, match='EXIF turns it: if the annotations are of the stored pixels, give --ignore-exif'
    ):
        check_images(file, images)
    check_images(read(tmp_path, content(), folder=images, ignore_exif=True), images, ignore_exif=True)


def corners(box: list[float]) -> list[float]:
    return [box[0], box[1], box[0] + box[2], box[1] + box[3]]


CONVENTIONS = {
    'left, top, right, bottom': corners,
    'centre x, centre y': lambda box: [box[0] + box[2] / 2, box[1] + box[3] / 2, *box[2:]],
    'fractions of the image': lambda box: [side / 64 for side in box],
}


@pytest.mark.parametrize('dropped', [(), ('area',), ('segmentation',), ('area', 'segmentation')], ids=str)
@pytest.mark.parametrize('name', CONVENTIONS)
def test_boxes_of_other_conventions(coco_root: Path, tmp_path: Path, name: str, dropped: tuple) -> None:
    data = json.loads((coco_root / TRAIN).read_text())
    without('annotations', *dropped)(data)
    read(tmp_path, data, masks=False)
    for annotation in data['annotations']:
        annotation['bbox'] = CONVENTIONS[name](annotation['bbox'])
    with pytest.raises(UserError, match=name):
        read(tmp_path, data, masks=False)


@pytest.mark.parametrize('told_by', ['area', 'segmentation'])
def test_boxes_in_the_corner_are_told_by_areas_or_masks(tmp_path: Path, told_by: str) -> None:
    """All of them are inside their image in both conventions."""
    data = content()
    random = np.random.default_rng(0)
    boxes = [[*random.uniform(1, 8, 2), *random.uniform(4, 8, 2)] for _ in range(20)]
    data['annotations'] = [{**data['annotations'][0], 'id': i, 'bbox': box} for i, box in enumerate(boxes, 1)]
    for annotation in data['annotations']:
        left, top, right, low = corners(annotation['bbox'])
        annotation['area'] = (right - left) * (low - top)
        annotation['segmentation'] = [[left, top, right, top, right, low, left, low]]
    without('annotations', *{'area', 'segmentation'} - {told_by})(data)
    read(tmp_path, data, masks=False)
    for annotation in data['annotations']:
        annotation['bbox'] = corners(annotation['bbox'])
    with pytest.raises(UserError, match='left, top, right, bottom'):
        read(tmp_path, data, masks=False)


@pytest.mark.parametrize(
    'filter_cfg', [None, {}, {'filter_empty_gt': True, 'min_size': 40}, {'min_size': 33}]
)
@pytest.mark.parametrize('classes', [('nut', 'fïg'), ('fïg',)])
def test_images_used_are_those_of_mmdetection(
    tmp_path: Path, filter_cfg: dict | None, classes: tuple[str, ...]
) -> None:
    init_default_scope('mmdet')
    data = content()
    sizes = [(32, 48), (48, 32), (64, 64), (40, 40)]
    data['images'] = [
        {'id': i, 'file_name': f'{i}.jpg', 'height': h, 'width': w} for i, (h, w) in enumerate(sizes, 1)
    ]
    record = data['annotations'][0]
    data['annotations'] = [
        {**record, 'id': 1, 'image_id': 1},
        {**record, 'id': 2, 'image_id': 2, 'category_id': 3},
        {**record, 'id': 3, 'image_id': 4, 'iscrowd': 1, 'category_id': 3},
    ]
    file = read(tmp_path, data)
    with contextlib.redirect_stdout(io.StringIO()):
        dataset = DATASETS.build(
            {
                'type': 'CocoDataset',
                'ann_file': str(file.path),
                'metainfo': {'classes': classes},
                'data_prefix': {'img': ''},
                'pipeline': [],
                'filter_cfg': filter_cfg,
            }
        )
    used = images_used(file, filter_cfg, classes)
    assert [image['id'] for image in used.used] == [item['img_id'] for item in dataset]
    assert f'training on {len(dataset)} of 4 images' in str(used)


def test_nothing_to_learn_or_to_evaluate(tmp_path: Path) -> None:
    cases: dict[str, tuple[Change, str, str]] = {
        'crowds': (lambda d: [a.update(iscrowd=1) for a in d['annotations']], 'is a crowd', 'is a crowd'),
        'ignored': (lambda d: [a.update(ignore=1) for a in d['annotations']], 'ignored', ''),
        'small': (lambda d: [i.update(height=31) for i in d['images']], '2 smaller than 32 pixels', ''),
        'one left': (lambda d: d['images'][0].update(height=31), '', ''),
    }
    for change, learned, evaluated in cases.values():
        data = content()
        change(data)
        file = read(tmp_path, data)
        used = images_used(file, {'filter_empty_gt': True, 'min_size': 32}, file.classes)
        for split, expected in ((used, learned), (None, evaluated)):
            fatal = [problem.what for problem in use_problems(file, file.classes, split) if problem.fatal]
            assert len(fatal) == bool(expected)
            assert all(expected in what for what in fatal)


@pytest.fixture
def own_root(coco_root: Path, tmp_path: Path) -> Path:
    """A copy of the data in which the annotation files need repairs."""
    root = Path(shutil.copytree(coco_root, tmp_path / 'own'))
    for path in (root / 'annotations').iterdir():
        data = json.loads(path.read_text())
        without('annotations', 'area', 'iscrowd')(data)
        data['images'][0]['id'] = 'one'
        for annotation in data['annotations']:
            if annotation['image_id'] == 1:
                annotation['image_id'] = 'one'
        path.write_text(json.dumps(data))
    return root


def test_a_run_reads_copies(flat_config: Path, own_root: Path, tmp_path: Path) -> None:
    init_default_scope('mmdet')
    cfg = Config.fromfile(flat_config)
    set_data_paths(cfg, DataOptions(data_root=str(own_root)))
    before = {path: path.read_bytes() for path in (own_root / 'annotations').iterdir()}
    data = read_data(cfg, ('train_dataloader', 'val_dataloader'), copies=tmp_path / 'copies')
    set_copies(cfg, data.copies)
    set_classes(cfg, data.classes)
    assert {path: path.read_bytes() for path in before} == before
    assert len(list((tmp_path / 'copies').iterdir())) == 2
    assert any('training on 6 of 6 images' in note for note in data.notes)
    assert sum('instances_val2017.json: iscrowd' in warning for warning in data.warnings) == 1
    for split in ('train', 'val'):
        dataset = cfg[f'{split}_dataloader'].dataset
        assert Path(dataset.ann_file).parent == tmp_path / 'copies'
        with contextlib.redirect_stdout(io.StringIO()):
            built = DATASETS.build({**dataset, 'pipeline': []})
        assert all(item['instances'] for item in built)
    assert cfg.val_evaluator.ann_file == cfg.val_dataloader.dataset.ann_file
    truth = loaded(cfg.val_evaluator.ann_file)
    results = [{'image_id': key, 'category_id': 1} for key in ('one', '2', '3')]
    assert [r['image_id'] for r in with_original_ids(truth, results)] == ['one', 2, 3]


def test_a_copy_replaces_no_other_file(tmp_path: Path) -> None:
    one, other = (save_copy({'images': [i]}, tmp_path, 'train') for i in range(2))
    assert one != other
    assert save_copy({'images': [0]}, tmp_path, 'train') == one
    assert json.loads(one.read_text()) == {'images': [0]}
    assert save_copy({}, tmp_path, '葡' * 80).is_file()


def test_text_and_unreadable_files_among_the_images(tmp_path: Path, images: Path) -> None:
    """They are left to the check that decodes the images."""
    (images / 'a.jpg').write_bytes(b'no image')
    cv2.imwrite(str(images / 'b.png'), np.zeros((32, 48, 3), np.uint8))
    check_images(read(tmp_path, content(), folder=images), images)
