"""Pictures of objects: the objects drawn, their positions, and the size of the picture."""

from pathlib import Path

import cv2
import numpy as np
import torch
from mmdet.structures.bbox import HorizontalBoxes
from mmdet.structures.mask import BitmapMasks
from mmengine.structures import InstanceData
from pycocotools.coco import COCO

from crossformer_mm.data.shapes import write_coco
from crossformer_mm.deploy.masks import MaskPart, MaskParts
from crossformer_mm.deploy.predictions import Objects
from crossformer_mm.evaluation.detection_pictures import (
    DrawnObject,
    coco_objects,
    drawn_objects,
    save_objects,
)
from crossformer_mm.evaluation.picture_hooks import true_objects
from crossformer_mm.evaluation.records import encode_mask

GREY = np.full((64, 64, 3), 128, np.uint8)
BOX = DrawnObject('$x_$', 'C0', [4, 10, 56, 50], None)  # matplotlib would refuse the name as mathematics


def drawn(path: Path, *images: list[DrawnObject], **layout: int) -> np.ndarray:
    save_objects(path, [(GREY, objects) for objects in images], **layout)
    return cv2.imread(str(path)).astype(int)


def test_an_object_is_drawn_on_its_own_image(tmp_path: Path) -> None:
    mask = np.zeros((64, 64), np.uint8)
    mask[10:60, 4:60] = 1
    plain = drawn(tmp_path / 'plain.png', [])
    assert plain.shape == (800, 800, 3), 'a small image is enlarged'
    box, filled = (
        np.abs(drawn(tmp_path / 'a.png', [item]) - plain).sum(-1) > 0
        for item in (BOX, BOX._replace(mask=mask))
    )
    assert box.any() and not box[200:700, 100:700].any()
    assert filled[200:700, 100:700].all()
    assert not box[:, :40].any(), 'left of the box'
    pair = drawn(tmp_path / 'pair.png', [], [BOX], columns=2, titles=['truth', 'prediction'])
    changed = np.abs(pair - drawn(tmp_path / 'none.png', [], [], columns=2, titles=['truth', 'prediction']))
    left, right = np.split(changed, [changed.shape[1] // 2], axis=1)
    assert not left.any()
    assert right.any()


def test_objects_of_the_ground_truth() -> None:
    masks = np.zeros((2, 64, 64), np.uint8)
    masks[1, 3:5, 2:8] = 1
    truth = InstanceData(
        bboxes=HorizontalBoxes([[1, 2, 3, 5], [2, 3, 8, 5]]),
        labels=torch.tensor([1, 0]),
        masks=BitmapMasks(masks, 64, 64),
    )
    first, second = true_objects(truth, ['cat', 'dog'])
    assert (first.label, first.colour, first.box) == ('dog', 'C1', [1, 2, 2, 3])
    assert (second.label, second.box, int(second.mask.sum())) == ('cat', [2, 3, 6, 2], 12)
    del truth.masks
    assert true_objects(truth, ['cat', 'dog'])[0].mask is None


def test_predicted_objects_of_a_good_score_are_drawn_with_the_best_on_top() -> None:
    boxes = np.array([[-3, 10, 20, 30], [5, 6, 90, 16], [0, 0, 9, 9]], np.float32)
    masks = np.zeros((3, 64, 64), bool)
    masks[0, 11:30, :20] = masks[1, 6:16, 7:64] = True
    scores, labels = np.array([0.9, 0.5, 0.4], np.float32), np.array([1, 0, 1])
    parts = MaskParts(list(map(MaskPart.of, masks)), (64, 64))
    for given in (list(masks), parts, None):
        found = Objects(boxes, scores, labels, given)
        last, best = drawn_objects(found, ['cat', 'dog'], (64, 64), 0.45)
        assert (last.label, last.colour, last.box) == ('cat 0.50', 'C0', (5, 6, 59, 10))
        assert (best.label, best.colour, best.box) == ('dog 0.90', 'C1', (0, 10, 20, 20))
        if given is None:
            assert best.mask is None
        else:
            assert (best.corner, best.mask.shape) == ((0, 11), (19, 20))
            assert (last.corner, last.mask.shape, last.mask.min()) == ((7, 6), (10, 57), 1)


def test_only_the_best_of_many_objects_have_labels(tmp_path: Path) -> None:
    found = Objects(
        np.tile(np.float32([[4, 10, 60, 60]]), (101, 1)), np.linspace(1, 0.5, 101), [0] * 101, None
    )
    objects = list(drawn_objects(found, ['cat'], (64, 64), 0))
    assert [item.label for item in objects[:2]] == ['', 'cat 0.51'] and objects[-1].label == 'cat 1.00'
    without, labelled = (drawn(tmp_path / 'a.png', [item]) for item in objects[:2])
    assert not np.array_equal(without[:120], labelled[:120])
    assert np.array_equal(without[200:], labelled[200:])


def test_sheets_have_rows(tmp_path: Path) -> None:
    one = drawn(tmp_path / 'one.png', [], [], columns=2, panel=2, dpi=100)
    two = drawn(tmp_path / 'two.png', [], [], [BOX], columns=2, panel=2, dpi=100)
    assert one.shape[1] == two.shape[1]
    assert two.shape[0] > 1.9 * one.shape[0]


def test_objects_of_annotations_and_of_results(tmp_path: Path) -> None:
    write_coco(tmp_path, train=1, val=1, size=64)
    truth = COCO(tmp_path / 'annotations' / 'instances_val2017.json')
    objects = coco_objects(truth, 1)
    assert len(objects) == len(truth.anns)
    for item, annotation in zip(objects, truth.dataset['annotations'], strict=True):
        assert item.label == truth.cats[annotation['category_id']]['name']
        assert item.box == annotation['bbox']
        assert item.mask.sum() == annotation['area']
    result = {'image_id': 1, 'category_id': 2, 'segmentation': encode_mask(objects[0].mask)}
    found = truth.loadRes([{**result, 'score': 0.9}, {**result, 'score': 0.4}])
    last, best = coco_objects(found, 1)
    assert (last.label, best.label) == ('rectangle 0.40', 'rectangle 0.90'), 'the best lies on top'
    rows, columns = np.nonzero(objects[0].mask)
    assert list(best.box) == [columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1]
    truth.dataset['annotations'][0]['segmentation'] = [[1, 2, 3]]
    assert coco_objects(truth, 1)[0].mask is None, 'broken masks are not drawn'
