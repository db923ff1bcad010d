"""Predictions of the three toolboxes as arrays."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine.structures import BaseDataElement, InstanceData, PixelData

from crossformer_mm.evaluation.picture_hooks import sample_picture

META = {'classes': ('circle', 'square'), 'palette': [[255, 0, 0], [0, 0, 255]]}
SIDE = 60
BOXES = torch.tensor([[5.0, 5, 25, 25], [30, 30, 55, 55]])


def sample_of(path: Path, **parts: object) -> BaseDataElement:
    """A data sample of a grey image."""
    cv2.imwrite(str(path / 'grey.png'), np.full((SIDE, SIDE, 3), 128, np.uint8))
    sample = BaseDataElement(metainfo={'img_path': str(path / 'grey.png')})
    for name, part in parts.items():
        setattr(sample, name, part)
    return sample


def objects(scores: list[float]) -> InstanceData:
    return InstanceData(bboxes=BOXES, labels=torch.tensor([0, 1]), scores=torch.tensor(scores))


def coloured(picture: np.ndarray) -> list[float]:
    """The share of coloured pixels in the left and the right half."""
    spread = picture.astype(int).max(-1) - picture.min(-1)
    return [float((half > 20).mean()) for half in np.array_split(spread, 2, axis=1)]


@pytest.mark.parametrize(('scores', 'drawn'), [([0.9, 0.8], True), ([0.2, 0.1], False)])
def test_objects_beside_the_ground_truth(tmp_path: Path, scores: list[float], drawn: bool) -> None:
    sample = sample_of(tmp_path, pred_instances=objects(scores), gt_instances=objects([1, 1]))
    picture = sample_picture(sample, META)
    assert picture.dtype == np.uint8
    assert picture.shape[1] == pytest.approx(2 * picture.shape[0], rel=0.1)
    truth, found = coloured(picture)
    assert truth > 0
    assert (found > 0) == drawn


def test_label_maps_beside_the_ground_truth(tmp_path: Path) -> None:
    truth, found = torch.zeros(1, SIDE, SIDE, dtype=torch.long), torch.ones(1, SIDE, SIDE, dtype=torch.long)
    sample = sample_of(tmp_path, gt_sem_seg=PixelData(data=truth), pred_sem_seg=PixelData(data=found))
    picture = sample_picture(sample, META).astype(int)
    left, right = (picture[300, column] for column in (300, 900))
    assert left[0] > left[2]
    assert right[2] > right[0]


def test_scores_of_classes_beside_the_image(tmp_path: Path) -> None:
    sample = sample_of(tmp_path, gt_label=torch.tensor([1]), pred_score=torch.tensor([0.1, 0.9]))
    picture = sample_picture(sample, META)
    image, bars = coloured(picture[:, : picture.shape[0]])[0], coloured(picture)[1]
    assert image == 0
    assert bars > 0
