"""Another size of images in all pipelines."""

from collections.abc import Callable
from typing import Any

import pytest
from mmengine.config import Config

from crossformer_mm.data.datasets import dicts_in
from crossformer_mm.data.image_size import set_image_size, smaller_side
from crossformer_mm.utils.errors import UserError


def sizes(part: Any) -> list[Any]:
    """All sizes in a part of a config, in its order."""
    names = ('scale', 'scales', 'crop_size')
    return [step[name] for _, step in dicts_in(part) for name in names if name in step]


def test_shorter_side(config: Callable[[str], Config]) -> None:
    cfg = config('mask_rcnn_crossformer_s')
    set_image_size(cfg, [400])
    for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
        assert sizes(loader.dataset.pipeline) == [(666, 400)]


def test_ranges_of_sizes_and_crops(config: Callable[[str], Config]) -> None:
    cfg = config('mask_rcnn_crossformer_s_3x')
    before = sizes(cfg.train_dataloader.dataset.pipeline)
    set_image_size(cfg, [200])
    after = sizes(cfg.train_dataloader.dataset.pipeline)
    assert (before[0][0], after[0][0]) == ((480, 1333), (120, 333))
    assert after[-2:] == [(96, 150), [(round(a / 4), round(b / 4)) for a, b in before[-1]]]


def test_segmentation_with_its_crops_and_views(config: Callable[[str], Config]) -> None:
    cfg = config('upernet_crossformer_s')
    set_image_size(cfg, [256])
    assert sizes(cfg.train_dataloader.dataset.pipeline) == [(1024, 256), (256, 256)]
    assert sizes(cfg.test_dataloader.dataset.pipeline) == [(1024, 256)]
    assert cfg.model.data_preprocessor.size == (256, 256)
    assert sizes(cfg.tta_pipeline)[0] == (512, 128)


def test_lists_of_shorter_sides(config: Callable[[str], Config]) -> None:
    cfg = config('mask2former_crossformer_s_ade20k')
    set_image_size(cfg, [256])
    (resize,) = [step for _, step in dicts_in(cfg.train_dataloader) if 'scales' in step]
    assert (resize.scales[0], resize.scales[-1], resize.max_size) == (128, 512, 1024)


def test_pipelines_that_a_hook_switches_to(config: Callable[[str], Config]) -> None:
    cfg = config('rtmdet_ins_crossformer_s')
    set_image_size(cfg, [320])
    assert sizes(cfg.custom_hooks) == [(320, 320), (320, 320)]


@pytest.mark.parametrize(
    ('before', 'sides', 'border'),
    [
        ((-320, -320), [320], (-160, -160)),
        ((-320, -320), [320, 640], (-320, -160)),
        ((-320, -160), [160], (-160, -80)),
        ((-160, -320), [160], (-80, -160)),
    ],
)
def test_borders_follow_mosaics(
    config: Callable[[str], Config], before: tuple[int, int], sides: list[int], border: tuple[int, int]
) -> None:
    """A border cuts a mosaic, of twice the size, back to it."""
    cfg = config('mask_rcnn_crossformer_s')
    scale = tuple(-2 * side for side in before)
    cfg.train_dataloader.dataset.pipeline += [
        {'type': 'Mosaic', 'img_scale': scale},
        {'type': 'RandomAffine', 'border': before},
    ]
    for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
        loader.dataset.pipeline[2 if loader is cfg.train_dataloader else 1].scale = scale
    set_image_size(cfg, sides)
    mosaic, affine = cfg.train_dataloader.dataset.pipeline[-2:]
    assert affine.border == border
    assert mosaic.img_scale == tuple(-2 * side for side in border)


def test_sizes_of_batches(config: Callable[[str], Config]) -> None:
    cfg = config('mask_rcnn_crossformer_s')
    resize = {'type': 'BatchSyncRandomResize', 'random_size_range': (480, 800), 'size_divisor': 32}
    cfg.model.data_preprocessor.batch_augments = [resize]
    set_image_size(cfg, [400])
    (resize,) = cfg.model.data_preprocessor.batch_augments
    assert (resize.random_size_range, resize.size_divisor) == ((240, 400), 32)


def test_windows_of_a_segmentor(config: Callable[[str], Config]) -> None:
    cfg = config('fpn_crossformer_s')
    cfg.model.test_cfg = {'mode': 'slide', 'crop_size': (512, 512), 'stride': (341, 341)}
    set_image_size(cfg, [256])
    assert (cfg.model.test_cfg.crop_size, cfg.model.test_cfg.stride) == ((256, 256), (170, 170))


def test_classification(config: Callable[[str], Config]) -> None:
    cfg = config('crossformer_s_in1k')
    set_image_size(cfg, [112])
    assert sizes(cfg.train_dataloader.dataset.pipeline) == [112]
    assert sizes(cfg.test_dataloader.dataset.pipeline) == [128, 112]


def test_height_and_width(config: Callable[[str], Config]) -> None:
    cfg = config('mask_rcnn_crossformer_s')
    set_image_size(cfg, [256, 320])
    assert sizes(cfg.test_dataloader.dataset.pipeline) == [(320, 256)]


@pytest.mark.parametrize('sides', [[640, 640], [400, 1333]])
def test_ranges_change_as_the_tested_size_does(config: Callable[[str], Config], sides: list[int]) -> None:
    cfg = config('mask_rcnn_crossformer_s_3x')
    factor = min(sides) / 800
    (*_, crop, last) = sizes(cfg.train_dataloader.dataset.pipeline)
    set_image_size(cfg, sides)
    assert sizes(cfg.test_dataloader.dataset.pipeline) == [(max(sides), min(sides))]
    (*_, new_crop, new_last) = sizes(cfg.train_dataloader.dataset.pipeline)
    assert new_crop == tuple(round(side * factor) for side in crop)
    assert new_last == [(round(short * factor), max(sides)) for short, _ in last]


def test_portraits(config: Callable[[str], Config]) -> None:
    cfg = config('fpn_crossformer_s')
    set_image_size(cfg, [640, 256])
    assert sizes(cfg.train_dataloader.dataset.pipeline) == [(640, 256), (256, 256)]


def test_square_images(config: Callable[[str], Config]) -> None:
    with pytest.raises(UserError, match='--image-size 96 128: the images of this config are square'):
        set_image_size(config('crossformer_s_in1k'), [96, 128])
    cfg = config('crossformer_s_in1k')
    set_image_size(cfg, [112, 112])
    assert sizes(cfg.train_dataloader.dataset.pipeline) == [112]


@pytest.mark.parametrize('sides', [[16], [64, 64, 64], [0]])
def test_impossible_sizes(config: Callable[[str], Config], sides: list[int]) -> None:
    with pytest.raises(UserError, match='give the shorter side, or height and width, of at least 32 pixels'):
        set_image_size(config('mask_rcnn_crossformer_s'), sides)


def test_a_pipeline_without_a_size(config: Callable[[str], Config]) -> None:
    with pytest.raises(UserError, match='the test pipeline of this config has no size'):
        set_image_size(config('demo_semantic_fpn'), [64])
    cfg = config('mask_rcnn_crossformer_s')
    assert smaller_side(cfg) == 608
    cfg.test_dataloader.dataset.pipeline[1] = {'type': 'Pad', 'size': (64, 64)}
    with pytest.raises(UserError, match='the test pipeline of this config has no size'):
        set_image_size(cfg, [64])
    assert smaller_side(cfg) is None
    cfg = config('mask_rcnn_crossformer_s')
    del cfg.train_dataloader.dataset.pipeline[2]
    with pytest.raises(UserError, match='the training pipeline of this config has no size'):
        set_image_size(cfg, [64])
