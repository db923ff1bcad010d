"""Layouts are recognised by what is in the folder; several of them are told apart by an option."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from format_files import image, labelme, shape, write, xml
from PIL import Image

from crossformer_mm.data.coco import read_coco
from crossformer_mm.data.formats.layout import Layout, Split
from crossformer_mm.data.formats.recognise import recognise
from crossformer_mm.utils.errors import UserError

NAMES = {'train': ('a.jpg', 'b.jpg'), 'val': ('c.jpg',)}


def coco_file(path: Path, names: tuple[str, ...], encoding: str = 'utf-8') -> Path:
    """A file of annotations, with an object per image."""
    images = [{'id': i, 'file_name': name, 'height': 80, 'width': 100} for i, name in enumerate(names, 1)]
    box = {'bbox': [1, 2, 30, 40], 'area': 1200, 'iscrowd': 0, 'category_id': 1}
    content = {
        'images': images,
        'categories': [{'id': 1, 'name': 'cell'}],
        'annotations': [{'id': i, 'image_id': i, **box} for i in range(1, len(names) + 1)],
    }
    return write(path, json.dumps(content), encoding)


def roboflow(root: Path) -> None:
    for split, folder in (('train', 'train'), ('val', 'valid')):
        coco_file(root / folder / '_annotations.coco.json', NAMES[split])
        for name in NAMES[split]:
            image(root / folder / name)


def cvat(root: Path) -> None:
    coco_file(root / 'annotations' / 'instances_default.json', NAMES['train'])
    for name in NAMES['train']:
        image(root / 'images' / 'default' / name)


def cvat_splits(root: Path) -> None:
    for split, names in NAMES.items():
        coco_file(root / 'annotations' / f'instances_{split.title()}.json', names)
        for name in names:
            image(root / 'images' / split.title() / name)


def label_studio(root: Path) -> None:
    coco_file(root / 'result.json', tuple(f'images\\0a1b-{name}' for name in NAMES['train']))
    for name in NAMES['train']:
        image(root / 'images' / f'0a1b-{name}')


def beside(root: Path) -> None:
    coco_file(root / 'labels.json', NAMES['train'], 'utf-16')
    for name in NAMES['train']:
        image(root / name)


def beside_folder(root: Path) -> None:
    coco_file(root / 'my export.json', NAMES['train'])
    for name in NAMES['train']:
        image(root / 'images' / name)


def two_files(root: Path) -> None:
    for split, names in NAMES.items():
        coco_file(root / f'{split}.json', names)
        for name in names:
            image(root / 'images' / name)


def coco_2017(root: Path) -> None:
    for split, names in NAMES.items():
        coco_file(root / 'annotations' / f'instances_{split}2017.json', names)
        coco_file(root / 'annotations' / f'person_keypoints_{split}2017.json', names)
        for name in names:
            image(root / 'images' / f'{split}2017' / name)


@pytest.mark.parametrize(
    ('build', 'title', 'folders'),
    [
        (roboflow, "Roboflow's COCO export", ['train', 'valid']),
        (cvat, "CVAT's COCO export", ['images/default']),
        (cvat_splits, "CVAT's COCO export", ['images/Train', 'images/Val']),
        (label_studio, "Label Studio's COCO export", ['.']),
        (beside, 'COCO annotations (labels.json)', ['.']),
        (beside_folder, 'COCO annotations (my export.json)', ['images']),
        (two_files, 'COCO annotations (train.json, val.json)', ['images', 'images']),
        (coco_2017, 'COCO 2017', ['images/train2017', 'images/val2017']),
    ],
)
def test_places_of_coco_files(
    tmp_path: Path, build: Callable[[Path], None], title: str, folders: list[str]
) -> None:
    build(tmp_path)
    layout = recognise(tmp_path, 'detection')
    assert (layout.format, layout.title) == ('coco', title)
    assert [split.images for split in layout.splits.values()] == [tmp_path / name for name in folders]
    assert str(layout).startswith(f'{tmp_path}: {title}, train')
    for name, split in layout.splits.items():
        (path,) = split.source
        file = read_coco(path, masks=False, folder=split.images)
        assert len(file.annotations) == len(NAMES[name])
        assert all((split.images / name).is_file() for name in file.image_names)


def voc(root: Path) -> None:
    write(root / 'Annotations' / 'a.xml', xml('a.jpg', ('cell', (1, 2, 30, 40))))
    image(root / 'JPEGImages' / 'a.jpg')


def yolo(root: Path) -> None:
    write(root / 'labels' / 'a.txt', '0 0.5 0.5 0.1 0.1\n')
    image(root / 'images' / 'a.jpg')


def one_labelme(root: Path) -> None:
    write(root / 'a.json', labelme('a.jpg', shape('cell', 'rectangle', [[1, 2], [30, 40]])))
    image(root / 'a.jpg')


def test_two_formats_in_a_folder_are_chosen_from(tmp_path: Path) -> None:
    two_files(tmp_path)
    for name in NAMES['train']:
        write(tmp_path / 'labels' / f'{name[:-4]}.txt', '0 0.5 0.5 0.1 0.1\n')
    with pytest.raises(UserError, match=r'choose with --format coco or --format yolo$') as refusal:
        recognise(tmp_path, 'detection')
    assert 'COCO annotations (train.json, val.json)' in str(refusal.value)
    assert 'YOLO (images and text files)' in str(refusal.value)
    assert {name: recognise(tmp_path, 'detection', name).format for name in ('coco', 'yolo')} == {
        'coco': 'coco',
        'yolo': 'yolo',
    }
    with pytest.raises(UserError, match='no data that this config reads in the format voc'):
        recognise(tmp_path, 'detection', 'voc')
    with pytest.raises(
        UserError, match='--format maps: a config for detection reads coco, yolo, voc, labelme'
    ):
        recognise(tmp_path, 'detection', 'maps')


@pytest.mark.parametrize(('build', 'name'), [(voc, 'voc'), (yolo, 'yolo'), (one_labelme, 'labelme')])
def test_formats_of_other_readers(tmp_path: Path, build: Callable[[Path], None], name: str) -> None:
    build(tmp_path)
    assert recognise(tmp_path, 'detection').format == name


def test_two_years_of_voc(tmp_path: Path) -> None:
    for year in ('VOC2007', 'VOC2012'):
        voc(tmp_path / 'VOCdevkit' / year)
    with pytest.raises(UserError, match=r'VOC2007 and Pascal VOC in .*VOC2012; give one of these folders as'):
        recognise(tmp_path, 'detection')


def test_two_annotation_files_of_the_same_images(tmp_path: Path) -> None:
    for name in ('first.json', 'second.json'):
        coco_file(tmp_path / name, NAMES['train'])
    with pytest.raises(UserError, match=r'first.json, .*second.json can each be .* choose with --train-ann'):
        recognise(tmp_path, 'detection')


def test_files_of_several_splits_and_of_none(tmp_path: Path) -> None:
    for name in ('test.json', 'trainval.json'):
        coco_file(tmp_path / name, NAMES['train'])
    splits = recognise(tmp_path, 'detection').splits
    assert {name: split.source[0].name for name, split in splits.items()} == {
        'train': 'trainval.json',
        'test': 'test.json',
    }


def test_a_folder_without_data(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r'The folder is empty. It reads COCO'):
        recognise(tmp_path, 'detection')
    voc(tmp_path / 'inner')
    with pytest.raises(UserError, match=r'There is inner/. It reads .*; .*/inner has Pascal VOC: give it as'):
        recognise(tmp_path, 'detection')
    with pytest.raises(UserError, match='It reads ADE20K'):
        recognise(tmp_path, 'segmentation')


def test_a_broken_description_does_not_hide_other_data(tmp_path: Path) -> None:
    write(tmp_path / 'data.yaml', 'names: [a\n')
    with pytest.raises(UserError, match=r'data.yaml, line 2 is not valid YAML'):
        recognise(tmp_path, 'detection')
    two_files(tmp_path)
    assert recognise(tmp_path, 'detection').format == 'coco'


def label_map(path: Path, palette: bool = False, colour: bool = False) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(np.full((80, 100), 1, np.uint8))
    if palette:
        picture.putpalette([0, 0, 0, 128, 0, 0])
    (picture.convert('RGB') if colour else picture).save(path)


def fill(root: Path, images: str, maps: str, splits: dict[str, str]) -> None:
    """An image and its label map for each split."""
    for split, folder in splits.items():
        image(root / images.replace('*', folder) / f'{split}.jpg')
        label_map(root / maps.replace('*', folder) / f'{split}.png')


@pytest.mark.parametrize(
    ('images', 'maps', 'folders'),
    [
        ('*', '*annot', {'train': 'train', 'val': 'val', 'test': 'test'}),
        ('*', '*_labels', {'train': 'training', 'val': 'validation'}),
        ('images/*', 'labels/*', {'train': 'train', 'val': 'val'}),
        ('images/*', 'masks/*', {'train': 'training', 'val': 'validation'}),
        ('img_dir/*', 'ann_dir/*', {'train': 'train', 'val': 'val'}),
        ('*/images', '*/masks', {'train': 'train', 'val': 'valid'}),
        ('*', 'masks/*', {'train': 'train', 'val': 'val'}),
        ('images', 'masks', {'train': ''}),
    ],
)
def test_folders_of_images_and_label_maps(
    tmp_path: Path, images: str, maps: str, folders: dict[str, str]
) -> None:
    fill(tmp_path, images, maps, folders)
    layout = recognise(tmp_path, 'segmentation')
    assert layout.format == 'maps'
    assert layout.splits == {
        name: Split(tmp_path / images.replace('*', folder), (tmp_path / maps.replace('*', folder),))
        for name, folder in folders.items()
    }
    write(tmp_path / 'classes.txt', 'ground\ncell\n')
    assert recognise(tmp_path, 'segmentation').classes == ('ground', 'cell')


def test_colour_pictures_of_label_maps_are_not_read_if_there_are_maps(tmp_path: Path) -> None:
    fill(tmp_path, 'images/*', 'labels/*', {'train': 'train', 'val': 'val'})
    shutil.copytree(tmp_path / 'labels', tmp_path / 'masks')
    with pytest.raises(UserError, match=r'images/train and labels/train.* choose with --train-images'):
        recognise(tmp_path, 'segmentation')
    for split in ('train', 'val'):
        label_map(tmp_path / 'labels' / split / f'{split}.png', colour=True)
    assert recognise(tmp_path, 'segmentation').splits['val'].source == (tmp_path / 'masks' / 'val',)


def test_cityscapes(tmp_path: Path) -> None:
    for split in ('train', 'val'):
        image(tmp_path / 'leftImg8bit' / split / 'ulm' / 'ulm_0_leftImg8bit.png')
        for kind in ('color', 'labelIds'):
            label_map(tmp_path / 'gtFine' / split / 'ulm' / f'ulm_0_gtFine_{kind}.png')
    layout = recognise(tmp_path, 'segmentation')
    assert (layout.format, list(layout.splits)) == ('cityscapes', ['train', 'val'])
    assert layout.splits['train'].ending == '_gtFine_labelIds.png'
    for split in ('train', 'val'):
        label_map(tmp_path / 'gtFine' / split / 'ulm' / 'ulm_0_gtFine_labelTrainIds.png')
    assert recognise(tmp_path, 'segmentation').splits['train'].ending == '_gtFine_labelTrainIds.png'


def test_voc_segmentation(tmp_path: Path) -> None:
    for name in 'abc':
        image(tmp_path / 'JPEGImages' / f'{name}.jpg')
        label_map(tmp_path / 'SegmentationClass' / f'{name}.png', palette=True)
    images, maps = tmp_path / 'JPEGImages', tmp_path / 'SegmentationClass'
    assert recognise(tmp_path, 'segmentation').splits == {'train': Split(images, (maps,))}
    lists = [
        write(tmp_path / 'ImageSets' / 'Segmentation' / f'{split}.txt', 'a\n') for split in ('train', 'val')
    ]
    write(tmp_path / 'class_names.txt', '__ignore__\n_background_\ncell\n')
    layout = recognise(tmp_path, 'segmentation')
    assert (layout.format, layout.classes) == ('voc-seg', ('_background_', 'cell'))
    assert [split.source for split in layout.splits.values()] == [(maps, path) for path in lists]


def test_the_paths_of_a_config_come_first(tmp_path: Path) -> None:
    two_files(tmp_path)
    own = Layout('coco', 'COCO 2017', tmp_path, {})
    assert recognise(tmp_path, 'detection', None, own) is own


@pytest.mark.parametrize('build', ['voc', 'cityscapes'])
def test_the_folders_that_a_config_was_trained_on_are_one_dataset(tmp_path: Path, build: str) -> None:
    images, maps = ('JPEGImages', 'SegmentationClass') if build == 'voc' else ('leftImg8bit/*', 'gtFine/*')
    names = ('train', 'val') if build == 'voc' else ('train', 'val', 'test')
    fill(tmp_path, images, maps, {name: name for name in names})
    for path in tmp_path.glob('gtFine/*/*.png'):
        path.rename(path.with_name(f'{path.stem}_gtFine_labelTrainIds.png'))
    found = recognise(tmp_path, 'segmentation')
    splits = {
        split: Split(tmp_path / images.replace('*', split), (tmp_path / maps.replace('*', split),))
        for split in ('train', 'val')
    }
    own = Layout('ade20k', 'the folders of the config', tmp_path, splits)
    assert found.format in ('voc-seg', 'cityscapes')
    assert recognise(tmp_path, 'segmentation', None, own) is own
    assert recognise(tmp_path, 'segmentation', found.format, own) == found


def test_yolo_folders_with_coco_s_year(tmp_path: Path) -> None:
    for split in ('train2017', 'val2017'):
        image(tmp_path / f'images/{split}/a.jpg')
        write(tmp_path / f'labels/{split}/a.txt', '0 0.5 0.5 0.1 0.1\n')
    splits = recognise(tmp_path, 'detection').splits
    assert {name: split.images.name for name, split in splits.items()} == {
        'train': 'train2017',
        'val': 'val2017',
    }


def test_voc_files_beside_the_images_of_each_split(tmp_path: Path) -> None:
    for split in ('train', 'test'):
        image(tmp_path / f'images/{split}/a.jpg')
        write(tmp_path / f'images/{split}/a.xml', xml('a.jpg', ('cell', (1, 1, 9, 9))))
    splits = recognise(tmp_path, 'detection').splits
    assert {name: split.images.name for name, split in splits.items()} == {'train': 'train', 'test': 'test'}


def test_a_file_of_cvat_for_images_is_not_taken_for_voc(tmp_path: Path) -> None:
    image(tmp_path / 'images/a.jpg')
    write(
        tmp_path / 'annotations.xml',
        '<?xml version="1.0"?>\n<annotations><image name="a.jpg"/></annotations>',
    )
    with pytest.raises(UserError, match='no data that this config reads'):
        recognise(tmp_path, 'detection')


def test_voc_files_in_folders_of_folders(tmp_path: Path) -> None:
    image(tmp_path / 'JPEGImages/images/train/a.jpg')
    write(tmp_path / 'Annotations/images/train/a.xml', xml('a.jpg', ('cell', (1, 1, 9, 9))))
    assert recognise(tmp_path, 'detection').format == 'voc'


def test_roboflow_names_a_validation_set_that_is_not_there(tmp_path: Path) -> None:
    image(tmp_path / 'train/images/a.jpg')
    write(tmp_path / 'train/labels/a.txt', '0 0.5 0.5 0.1 0.1\n')
    text = 'train: ../train/images\nval: ../valid/images\ntest: ../test/images\nnames: [cell]\n'
    write(tmp_path / 'data.yaml', text)
    assert list(recognise(tmp_path, 'detection').splits) == ['train']
    write(tmp_path / 'data.yaml', text.replace('../valid/images', 'other'))
    with pytest.raises(UserError, match='val is "other"'):
        recognise(tmp_path, 'detection')


def test_one_of_two_yaml_files_is_chosen_as_the_root(tmp_path: Path) -> None:
    image(tmp_path / 'images/train/a.jpg')
    write(tmp_path / 'labels/train/a.txt', '0 0.5 0.5 0.1 0.1\n')
    for name in ('a.yaml', 'b.yaml'):
        write(tmp_path / name, 'train: images/train\nnames: [cell]\n')
    with pytest.raises(UserError, match=r'give one of these files as --data-root'):
        recognise(tmp_path, 'detection')
    assert recognise(tmp_path / 'b.yaml', 'detection').title == 'YOLO (b.yaml)'
