"""Preparation of images: the same pixels as the toolboxes' transforms."""

import numpy as np
import pytest
from exported_files import EDGE, FIT, STRETCH
from mmcv.transforms import CenterCrop, Resize

import crossformer_mm.mmpretrain_parts  # noqa: F401, before other modules of MMPretrain

# isort: split
from mmpretrain.datasets.transforms import ResizeEdge
from mmseg.datasets.transforms import ResizeToMultiple

from crossformer_mm.deploy.prepare import prepare, widen

SHAPES = [(37, 91), (91, 37), (64, 48), (300, 211), (1, 1), (480, 640), (97, 3)]


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).integers(0, 256, (*shape, 3), np.uint8)


@pytest.mark.parametrize('shape', SHAPES)
@pytest.mark.parametrize('preprocessing', [FIT, STRETCH])
def test_images_are_resized_as_by_mmcv_and_padded(shape: tuple[int, int], preprocessing: dict) -> None:
    side = 64
    image = noise(*shape)
    resize = Resize(scale=(side, side), keep_ratio=preprocessing is FIT)
    theirs = resize(dict(img=image))['img']
    ours, size = prepare(image, (side, side), preprocessing)
    height, width = size
    assert size == theirs.shape[:2]
    assert np.array_equal(ours[:height, :width, ::-1], theirs)
    assert ours.shape == (side, side, 3)
    assert not ours[height:].any() and not ours[:, width:].any()


@pytest.mark.parametrize('shape', SHAPES)
def test_images_are_resized_to_multiples_as_by_mmsegmentation(shape: tuple[int, int]) -> None:
    image = noise(*shape)
    resized = Resize(scale=(64, 64), keep_ratio=True)(dict(img=image))
    theirs = ResizeToMultiple(size_divisor=16)(resized)['img']
    ours, (height, width) = prepare(image, (64, 64), {**FIT, 'multiple': 16})
    assert np.array_equal(ours[:height, :width, ::-1], theirs)


def test_images_fit_an_input_that_is_not_square() -> None:
    image = noise(300, 211)
    theirs = Resize(scale=(96, 160), keep_ratio=True)(dict(img=image))['img']
    ours, (height, width) = prepare(image, (160, 96), FIT)
    assert np.array_equal(ours[:height, :width, ::-1], theirs)
    assert prepare(image, (96, 160), FIT)[1] == (96, 68)


@pytest.mark.parametrize('shape', SHAPES)
@pytest.mark.parametrize(('interpolation', 'library'), [('bicubic', 'pillow'), ('bilinear', 'opencv')])
def test_images_are_resized_and_cropped_as_by_mmpretrain(
    shape: tuple[int, int], interpolation: str, library: str
) -> None:
    backend = {'pillow': 'pillow', 'opencv': 'cv2'}[library]
    image = noise(*shape)
    resize = ResizeEdge(scale=40, backend=backend, interpolation=interpolation)
    theirs = CenterCrop(crop_size=(32, 35))(resize(dict(img=image)))['img']
    ours, size = prepare(image, (35, 32), {**EDGE, 'interpolation': interpolation, 'library': library})
    assert size == (35, 32)
    assert np.array_equal(ours[..., ::-1], theirs)


def test_a_very_thin_image_keeps_a_pixel() -> None:
    wide = widen(noise(1, 450))
    assert wide.shape == (5, 450, 3)
    assert np.array_equal(wide[0], wide[4])
    assert prepare(wide, (32, 32), FIT)[1] == (1, 32)
