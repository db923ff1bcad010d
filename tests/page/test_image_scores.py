"""The scores of images, and which of them are kept."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from mmengine.structures import BaseDataElement, InstanceData, PixelData
from numpy.typing import ArrayLike
from page_files import ReadPage

from crossformer_mm.page.html import page
from crossformer_mm.page.image_scores import SIDE, Extremes, ShownImage
from crossformer_mm.page.pictures import Album

CLASSES = ('cat', 'dog <i>')
COLOURS = [(255, 0, 0), (0, 255, 0)]
BOX, OTHER, CROWD = [0, 0, 10, 10], [20, 20, 40, 40], [50, 50, 90, 90]


class Masks:
    """Masks of the ground truth, as MMDetection has them."""

    def __init__(self, masks: np.ndarray) -> None:
        self.masks = masks

    def __getitem__(self, index: Any) -> 'Masks':
        return Masks(self.masks[index])

    def to_ndarray(self) -> np.ndarray:
        return self.masks

    def __len__(self) -> int:
        return len(self.masks)


def instances(boxes: list[list[float]], labels: list[int], scores: list[float] | None = None) -> InstanceData:
    found = InstanceData(
        bboxes=torch.tensor(boxes).float().reshape(-1, 4), labels=torch.tensor(labels).long()
    )
    if scores is not None:
        found.scores = torch.tensor(scores).float()
    return found


def detected(
    boxes: list, labels: list[int], scores: list[float], truth: tuple[list, list[int]], path: str = 'a.png'
) -> BaseDataElement:
    sample = BaseDataElement(metainfo={'img_path': path})
    sample.pred_instances = instances(boxes, labels, scores)
    sample.gt_instances = instances(*truth)
    sample.ignored_instances = instances([CROWD], [0])
    return sample


def classified(scores: list[float], truth: int, path: str = 'a.png') -> BaseDataElement:
    sample = BaseDataElement(metainfo={'img_path': path})
    sample.pred_score, sample.gt_label = torch.tensor(scores), torch.tensor([truth])
    return sample


def segmented(found: ArrayLike, truth: ArrayLike, path: str = 'a.png') -> BaseDataElement:
    sample = BaseDataElement(metainfo={'img_path': path})
    sample.pred_sem_seg = PixelData(data=torch.from_numpy(np.array(found))[None])
    sample.gt_sem_seg = PixelData(data=torch.from_numpy(np.array(truth))[None])
    return sample


def only(sample: BaseDataElement) -> ShownImage | None:
    extremes = Extremes(2)
    extremes.add(sample)
    return extremes.worst()[0] if extremes.images else None


@pytest.mark.parametrize(
    ('boxes', 'labels', 'scores', 'expected'),
    [
        ([BOX, OTHER], [0, 1], [0.9, 0.9], 1),
        ([BOX, OTHER], [0, 0], [0.9, 0.9], 1 / 2),  # one of another class
        ([BOX, BOX, OTHER], [0, 0, 1], [0.9, 0.8, 0.7], 4 / 5),  # one twice
        ([BOX, OTHER], [0, 1], [0.9, 0.29], 2 / 3),  # one of a low score
        ([BOX, OTHER, [52, 52, 60, 60]], [0, 1, 0], [0.9, 0.9, 0.9], 1),  # one in a crowd
        ([BOX, OTHER, [52, 52, 60, 60]], [0, 1, 1], [0.9, 0.9, 0.9], 4 / 5),  # in one of another class
        ([[0, 0, 10, 4]], [0], [0.9], 0),  # IoU 0.4
        ([BOX, OTHER], [0, 1], [float('nan')] * 2, 0),
        ([], [], [], 0),
    ],
)
def test_the_score_of_detections(
    boxes: list, labels: list[int], scores: list[float], expected: float
) -> None:
    image = only(detected(boxes, labels, scores, ([BOX, OTHER], [0, 1])))
    assert image.score == pytest.approx(expected)
    assert len(image.truth) == 2
    assert len(image.found) == sum(score >= 0.3 for score in scores)


def test_images_without_objects() -> None:
    assert only(detected([BOX], [0], [0.2], ([], []))) is None, 'and without detections'
    assert only(detected([BOX], [0], [0.5], ([], []))).score == 0


def test_the_score_of_label_maps() -> None:
    truth = [[0, 0, 1, 255], [0, 0, 1, 255]]
    assert only(segmented([[0, 0, 1, 0], [0, 0, 1, 1]], truth)).score == 1
    assert only(segmented([[0, 0, 0, 0], [0, 0, 0, 1]], truth)).score == pytest.approx((4 / 6 + 0) / 2)
    assert only(segmented([[5, 0, 1, 0], [5, 0, 1, 0]], truth)).score == pytest.approx((2 / 4 + 1) / 2)
    assert only(segmented([[0, 0]], [[255, 255]])) is None
    kept = only(segmented(np.zeros((1000, 2000), int), np.ones((1000, 2000), int)))
    assert kept.truth.shape == (SIDE // 2, SIDE)


def test_the_score_of_classes() -> None:
    image = only(classified([0.3, 0.7], 0))
    assert image.score == pytest.approx(0.3)
    assert [label for label, _ in image.found] == [1, 0]
    assert only(classified([float('nan')] * 2, 0)).score == 0


@pytest.mark.parametrize('sample', [torch.zeros(3), BaseDataElement(), {'img_path': 'a.png'}])
def test_other_outputs_are_left_out(sample: Any) -> None:
    assert only(sample) is None


def names(images: list[ShownImage]) -> list[str]:
    return [image.path for image in images]


def test_the_best_and_the_worst_are_kept() -> None:
    scores = np.random.default_rng(0).permutation(100) / 100
    whole, parts = Extremes(3), [Extremes(3), Extremes(3)]
    for index, score in enumerate(scores.tolist()):
        sample = classified([score, 1 - score], 0, f'{score:.2f}')
        whole.add(sample)
        parts[index % 2].add(sample)
    for part in parts:  # both have it, as with padding
        part.add(classified([0.0, 1.0], 0, '0.00'))
    parts[0].merge(parts[1])
    for extremes in (whole, parts[0]):
        assert names(extremes.worst()) == ['0.00', '0.01', '0.02']
        assert names(extremes.best()) == ['0.99', '0.98', '0.97']


@pytest.mark.parametrize(('count', 'worst'), [(1, 1), (2, 1), (3, 2), (4, 2), (9, 3)])
def test_few_images_are_shown_once(count: int, worst: int) -> None:
    extremes = Extremes(3)
    for index in range(count):
        extremes.add(classified([index / 10, 0.0], 0, str(index)))
    assert names(extremes.worst()) == [str(index) for index in range(worst)]
    assert not {*names(extremes.worst())} & {*names(extremes.best())}
    assert len(extremes.best()) == min(count - worst, 3)


def test_of_equal_scores_more_mistakes_are_worse() -> None:
    extremes = Extremes(1)
    for count, path in ((1, 'one'), (5, 'five'), (3, 'three')):
        extremes.add(detected([BOX] * count, [0] * count, [0.9] * count, ([], []), path))
    assert names(extremes.worst()) == ['five']
    assert 'F1' in extremes.meaning()
    assert Extremes(1).meaning() == ''


def test_pictures_of_each_kind(tmp_path: Path) -> None:
    path = str(tmp_path / 'large <b>.png')
    cv2.imwrite(path, np.full((600, 1200, 3), 90, np.uint8))
    mask = np.zeros((600, 1200), np.uint8)
    mask[100:300, 200:600] = 1
    sample = detected([[200, 100, 600, 300]], [1], [0.75], ([[200, 100, 600, 300]], [1]), path)
    sample.gt_instances.masks = Masks(mask[None])
    sample.pred_instances.masks = torch.from_numpy(mask[None]).bool()
    labels = np.repeat([[0, 1]], 300, 0).repeat(300, 1)
    samples = [sample, segmented(labels, labels, path), classified([0.2, 0.8], 0, path)]
    album = Album(CLASSES, COLOURS)
    text = page('', *(album.compared(only(one)) for one in samples))
    read = ReadPage(text)
    assert len(read.images) == 3 + 2, 'each image once, and two label maps'
    assert max(map(len, read.images)) < 20_000
    shown = ' '.join(read.text)
    assert 'dog <i> 0.75' in shown
    assert 'score 0.200: cat; predicted: dog <i> 0.80, cat 0.20' in shown
    assert text.count('<polygon') == 2
    scale = SIDE / 1200
    left, low = (f'{value * scale:.1f}' for value in (200, 299))
    assert f'{left},{low}' in text


@pytest.mark.parametrize(
    'mask', [[[1, 1, 9, 1, 9, 9, 5]], {'size': [9, 9], 'counts': [81]}, [['a'] * 6], None]
)
def test_masks_that_nobody_has_checked_are_left_out(tmp_path: Path, mask: Any) -> None:
    """MMDetection lists them also for a detector of boxes, whose training does not read them."""
    path = str(tmp_path / 'a.png')
    cv2.imwrite(path, np.zeros((60, 80, 3), np.uint8))
    item = {'bbox': [1, 2, 30, 40], 'bbox_label': 0, 'mask': mask}
    text = Album(CLASSES, COLOURS).sample({'img_path': path, 'height': 60, 'width': 80, 'instances': [item]})
    assert '<rect' in text and '<polygon' not in text


def test_an_image_that_is_gone_is_named(tmp_path: Path) -> None:
    image = only(classified([0.2, 0.8], 0, str(tmp_path / 'gone.png')))
    assert 'gone.png' in Album(CLASSES, COLOURS).compared(image)
