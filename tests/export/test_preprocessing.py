"""What a file says about how images become its input."""

from collections.abc import Callable
from contextlib import nullcontext

import pytest
from mmengine.config import Config

from crossformer_mm.export.preprocessing import crop_size, preprocessing_of
from crossformer_mm.utils.errors import UserError

LINEAR = {'interpolation': 'bilinear', 'library': 'opencv', 'ignore_exif': False}


@pytest.mark.parametrize(
    ('name', 'size', 'expected'),
    [
        ('mask_rcnn_crossformer_s', (800, 1344), {**LINEAR, 'resize': 'fit'}),
        ('upernet_crossformer_s', (500, 500), {**LINEAR, 'resize': 'fit'}),
        ('fpn_crossformer_s', (512, 512), {**LINEAR, 'resize': 'fit', 'multiple': 32}),
        (
            'crossformer_s_in1k',
            (224, 224),
            {**LINEAR, 'resize': 'edge', 'edge': 256, 'interpolation': 'bicubic', 'library': 'pillow'},
        ),
        (
            'crossformer_s_in1k',
            (320, 448),  # the image has to fill its longer side
            {**LINEAR, 'resize': 'edge', 'edge': 512, 'interpolation': 'bicubic', 'library': 'pillow'},
        ),
    ],
)
def test_the_test_pipeline_is_described(
    config: Callable[[str], Config], name: str, size: tuple[int, int], expected: dict
) -> None:
    assert preprocessing_of(config(name), size, ignore_exif=False) == expected


def test_images_that_need_not_keep_their_ratio_are_stretched(config: Callable[[str], Config]) -> None:
    cfg = config('upernet_crossformer_s')
    cfg.test_dataloader.dataset.pipeline[1].keep_ratio = False
    assert preprocessing_of(cfg, (64, 64), ignore_exif=True) == {
        **LINEAR,
        'resize': 'stretch',
        'ignore_exif': True,
    }


def test_only_classifiers_have_a_size_of_their_own(config: Callable[[str], Config]) -> None:
    assert crop_size(config('crossformer_s_in1k')) == (224, 224)
    assert crop_size(config('fpn_crossformer_s')) is None


def test_the_size_has_to_be_a_multiple_if_images_are(config: Callable[[str], Config]) -> None:
    with pytest.raises(
        UserError, match='--size 500 512: the config resizes images to multiples of 32, such as 512 512'
    ):
        preprocessing_of(config('fpn_crossformer_s'), (500, 512), ignore_exif=False)


@pytest.mark.parametrize(
    'step',
    [
        dict(type='Albu'),
        dict(type='Resize', scale=(64, 64), interpolation='lanczos'),
        dict(type='ResizeEdge', scale=256, edge='long'),
        dict(type='ResizeEdge', scale=128),  # less than the crop
    ],
)
def test_a_step_that_cannot_be_described_is_named(config: Callable[[str], Config], step: dict) -> None:
    cfg = config('crossformer_s_in1k')
    cfg.test_dataloader.dataset.pipeline[1] = step
    with pytest.raises(UserError, match=rf'step .*{step["type"]}.*supported are'):
        preprocessing_of(cfg, (224, 224), ignore_exif=False)


@pytest.mark.parametrize(
    ('steps', 'named'),
    [
        ([dict(type='Resize', scale=(256, 256)), dict(type='CenterCrop', crop_size=224)], 'CenterCrop'),
        ([dict(type='CenterCrop', crop_size=224)], 'CenterCrop'),
        ([dict(type='ResizeEdge', scale=256)], 'ResizeEdge'),
    ],
)
def test_only_a_shorter_side_is_cropped(
    config: Callable[[str], Config], steps: list[dict], named: str
) -> None:
    cfg = config('crossformer_s_in1k')
    cfg.test_dataloader.dataset.pipeline[1:3] = steps
    with pytest.raises(UserError, match=rf'step .*{named}.*supported are'):
        preprocessing_of(cfg, (224, 224), ignore_exif=False)


@pytest.mark.parametrize(
    ('name', 'value', 'refused'),
    [
        ('color_type', 'grayscale', True),
        ('color_type', 'unchanged', True),
        ('imdecode_backend', 'pillow', True),
        ('color_type', 'color_ignore_orientation', False),
        ('imdecode_backend', None, False),
    ],
)
def test_images_that_are_loaded_in_another_way(
    config: Callable[[str], Config], name: str, value: str | None, refused: bool
) -> None:
    cfg = config('fpn_crossformer_s')
    cfg.test_dataloader.dataset.pipeline[0][name] = value
    with pytest.raises(UserError, match=f"loads images with {name}='{value}'") if refused else nullcontext():
        preprocessing_of(cfg, (512, 512), ignore_exif=False)
