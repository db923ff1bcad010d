"""Pasted masks: the same as MMDetection's."""

import numpy as np
import torch
from mmdet.models.roi_heads.mask_heads import FCNMaskHead
from mmengine.config import ConfigDict

from crossformer_mm.deploy.masks import PastedMasks

SIZE = (61, 83)
# Ordinary, of the whole image, at the edges, smaller than a pixel, and without area.
BOXES = np.array(
    [
        [10.3, 5.7, 40.2, 50.9],
        [0, 0, 83, 61],
        [0, 30.5, 3.25, 61],
        [70.1, 0, 83, 8.8],
        [20.2, 20.3, 20.6, 20.4],
        [30.5, 10, 30.5, 40],
        [12, 13, 12, 13],
    ],
    np.float32,
)


def test_masks_are_pasted_as_by_mmdetection() -> None:
    logits = np.random.default_rng(0).normal(size=(len(BOXES), 1, 28, 28)).astype(np.float32)
    head = FCNMaskHead(num_convs=0, num_classes=1, class_agnostic=True)
    theirs = head._predict_by_feat_single(
        torch.from_numpy(logits),
        torch.from_numpy(BOXES),
        torch.zeros(len(BOXES), dtype=torch.long),
        dict(scale_factor=(1.0, 1.0), ori_shape=SIZE),
        ConfigDict(mask_thr_binary=0.5),
    ).numpy()
    probabilities = torch.from_numpy(logits[:, 0]).sigmoid().numpy()
    ours = PastedMasks(probabilities, BOXES, SIZE)
    assert len(ours) == len(BOXES)
    for mask, expected in zip(ours, theirs, strict=True):
        assert mask.dtype == bool
        assert np.array_equal(mask, expected)
