"""Pasted masks: the same as MMDetection's."""

import numpy as np
import torch
from mmdet.models.roi_heads.mask_heads.fcn_mask_head import _do_paste_mask
from torch import Tensor

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


def paste(probabilities: Tensor, box: Tensor) -> np.ndarray:
    """Paste a mask ``(h, w)`` as MMDetection does on CPUs, without its threshold."""
    whole = torch.zeros(SIZE)
    part, place = _do_paste_mask(probabilities[None, None], box[None], *SIZE, skip_empty=True)
    whole[place] = part[0]
    return whole.numpy()


def test_masks_are_pasted_as_by_mmdetection() -> None:
    logits = torch.from_numpy(np.random.default_rng(0).normal(size=(len(BOXES), 28, 28)).astype(np.float32))
    probabilities = logits.sigmoid()
    theirs = list(map(paste, probabilities, torch.from_numpy(BOXES)))
    ours = PastedMasks(probabilities.numpy(), BOXES, SIZE)
    assert len(ours) == len(BOXES)
    for mask, expected in zip(ours, theirs, strict=True):
        assert mask.dtype == bool
        clear = ~(abs(expected - 0.5) <= 1e-6)  # where rounding does not decide
        assert np.array_equal(mask[clear], expected[clear] >= 0.5)
        assert clear.mean() > 0.999
