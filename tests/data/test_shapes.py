"""The generated dataset: its layouts, exact ground truth, and the same bytes each time."""

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from pycocotools.coco import COCO

from crossformer_mm.data.shapes import (
    CLASSES,
    UNLABELLED,
    draw_scene,
    write_ade20k,
    write_class_folders,
    write_coco,
)


@pytest.fixture(scope='module')
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp('shapes')
    write_coco(root, train=6, val=3, size=96)
    return root


def contents(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob('*') if p.is_file()}


def test_layout_is_cocos(root: Path) -> None:
    names = {f'train2017/{i:012}.jpg' for i in range(1, 7)}
    names |= {f'val2017/{i:012}.jpg' for i in range(1, 4)}
    names |= {'annotations/instances_train2017.json', 'annotations/instances_val2017.json'}
    assert set(contents(root)) == names


def test_bytes_depend_on_the_arguments_alone(root: Path, tmp_path: Path) -> None:
    """A larger set begins with a smaller one, and another seed makes another set."""
    write_coco(tmp_path / 'larger', train=7, val=3, size=96)
    write_coco(tmp_path / 'other', train=6, val=3, size=96, seed=1)
    old, larger, other = contents(root), contents(tmp_path / 'larger'), contents(tmp_path / 'other')
    changed = {name for name in old if larger[name] != old[name]}
    assert changed == {'annotations/instances_train2017.json'}
    assert all(old[name] != other[name] for name in old)


def test_annotations_tell_the_truth(root: Path) -> None:
    coco = COCO(root / 'annotations' / 'instances_train2017.json')
    assert [category['name'] for category in coco.cats.values()] == list(CLASSES)
    for image_id, record in coco.imgs.items():
        image = cv2.imread(str(root / 'train2017' / record['file_name']))
        assert image.shape == (record['height'], record['width'], 3) == (96, 96, 3)
        annotations = coco.loadAnns(coco.getAnnIds(image_id))
        masks = np.stack([coco.annToMask(annotation) for annotation in annotations])
        assert masks.sum(0).max() == 1, 'objects overlap'
        for annotation, mask in zip(annotations, masks, strict=True):
            x, y, width, height = annotation['bbox']
            rows, columns = np.nonzero(mask)
            edges = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            assert np.allclose(edges, [x, y, x + width, y + height], atol=1.01)
            assert annotation['area'] == mask.sum()


def test_masks_cover_what_is_painted(root: Path) -> None:
    """Inside a mask the image is saturated, outside of all of them it is dull."""
    coco = COCO(root / 'annotations' / 'instances_val2017.json')
    for image_id, record in coco.imgs.items():
        image = cv2.imread(str(root / 'val2017' / record['file_name'])).astype(np.float32)
        masks = [coco.annToMask(a) for a in coco.loadAnns(coco.getAnnIds(image_id))]
        kernel = np.ones((5, 5), np.uint8)
        brightest = cv2.GaussianBlur(image, (3, 3), 0).max(-1)
        for mask in masks:
            assert brightest[cv2.erode(mask, kernel) == 1].min() > 165
        outside = cv2.dilate(np.max(masks, 0), kernel) == 0
        assert np.percentile(brightest[outside], 99) < 165


def test_every_class_and_many_sizes_occur() -> None:
    scenes = [draw_scene(np.random.default_rng(i), 192)[1] for i in range(20)]
    shapes = [shape for scene in scenes for shape in scene]
    corners = {label: {len(outline) for known, outline in shapes if known == label} for label in range(3)}
    assert corners == {0: {48}, 1: {4}, 2: {3}}
    widths = [np.ptp(outline[:, 0]) for _, outline in shapes]
    assert max(widths) > 2 * min(widths)
    assert min(len(scene) for scene in scenes) >= 1


@pytest.fixture(scope='module')
def ade_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp('ade')
    write_ade20k(root, train=12, val=3, size=96)
    return root


def test_layout_is_ade20ks(ade_root: Path) -> None:
    names = {'classes.txt'}
    for split, count in (('training', 12), ('validation', 3)):
        names |= {f'images/{split}/{i:08}.jpg' for i in range(1, count + 1)}
        names |= {f'annotations/{split}/{i:08}.png' for i in range(1, count + 1)}
    assert set(contents(ade_root)) == names
    assert (ade_root / 'classes.txt').read_text().split() == ['ground', *CLASSES]


def test_label_maps_fit_their_images_of_any_size(ade_root: Path) -> None:
    sizes, values = set(), set()
    for path in ade_root.glob('annotations/*/*.png'):
        labels = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        image = cv2.imread(str(ade_root / 'images' / path.parent.name / f'{path.stem}.jpg'))
        assert labels.shape == image.shape[:2]
        assert all(76 <= side <= 96 for side in labels.shape)
        sizes.add(labels.shape)
        values |= set(np.unique(labels))
        brightest = cv2.GaussianBlur(image.astype(np.float32), (3, 3), 0).max(-1)
        kernel = np.ones((5, 5), np.uint8)
        ground = cv2.erode((labels == 1).astype(np.uint8), kernel) == 1
        assert np.percentile(brightest[ground], 99) < 165
        for label in range(2, 2 + len(CLASSES)):
            inside = cv2.erode((labels == label).astype(np.uint8), kernel) == 1
            assert (brightest[inside] > 165).all()
    assert values == {UNLABELLED, 1, 2, 3, 4}
    assert len(sizes) > 6
    assert any(side % 2 for size in sizes for side in size)


def test_class_folders_hold_images_of_one_shape_of_that_class(tmp_path: Path) -> None:
    """The classes cover different parts of the smallest circle around them."""
    write_class_folders(tmp_path, train=24, val=6, size=192)
    parts = {'circle': (0.9, 1.1), 'rectangle': (0.54, 0.8), 'triangle': (0.3, 0.54)}
    for split, count in (('train', 8), ('val', 2)):
        for label in CLASSES:
            paths = list((tmp_path / split / label).iterdir())
            assert len(paths) == count
            for path in paths:
                image = cv2.imread(str(path))
                assert image.shape == (192, 192, 3)
                bright = cv2.medianBlur(image, 5).max(-1) > 165
                _, regions, boxes, _ = cv2.connectedComponentsWithStats(bright.astype(np.uint8))
                shape = regions == 1 + boxes[1:, cv2.CC_STAT_AREA].argmax()  # 0 is the ground
                _, radius = cv2.minEnclosingCircle(np.argwhere(shape).astype(np.float32))
                low, high = parts[label]
                assert low < shape.sum() / (np.pi * radius**2) < high


@pytest.mark.parametrize('write', [write_coco, write_ade20k, write_class_folders])
@pytest.mark.parametrize(
    ('arguments', 'message'),
    [({'train': 0}, 'train=0'), ({'val': 0}, 'val=0'), ({'size': 31}, 'size=31')],
)
def test_impossible_sets_are_refused(
    tmp_path: Path, write: Callable[..., None], arguments: dict[str, int], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        write(tmp_path / 'set', **arguments)
    assert not (tmp_path / 'set').exists()
