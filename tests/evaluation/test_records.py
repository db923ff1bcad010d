"""Masks in records, from parts of the image."""

import numpy as np
import pytest

from crossformer_mm.deploy.masks import MaskPart
from crossformer_mm.evaluation.records import encode_mask, encode_part


@pytest.mark.parametrize('share', [0, 0.02, 0.5, 0.98, 1])
def test_parts_are_encoded_as_whole_masks(share: float) -> None:
    rng = np.random.default_rng(0)
    for size in [(1, 1), (1, 9), (13, 1), (30, 20), (200, 300)]:
        mask = rng.random(size) < share
        assert encode_part(MaskPart.of(mask), size) == encode_mask(mask)
