"""Another size of images in all pipelines of a config, in training and testing."""

import argparse
from collections.abc import Sequence
from typing import Any

from mmengine.config import Config

from ..utils.errors import UserError
from .datasets import LOADERS, dicts_in

# The transforms of the toolboxes that state a size in pixels, and where.
_SIZES = {
    'scale': ('Resize', 'RandomResize', 'ResizeEdge', 'RandomResizedCrop', 'ResizeShortestEdge'),
    'scales': ('RandomChoiceResize',),
    'crop_size': ('RandomCrop', 'CenterCrop', 'RandomCenterCropPad'),
    'size': ('Pad', 'SegDataPreProcessor', 'BatchFixedSizePad'),
    'img_scale': ('Mosaic', 'MixUp', 'CachedMosaic', 'CachedMixUp'),
}
_LEAST = 32  # pixels: a token of the last stage


def add_size_option(parser: argparse.ArgumentParser) -> None:
    """Add ``--image-size``."""
    parser.add_argument(
        '--image-size',
        type=int,
        nargs='+',
        metavar='S',
        help='the size of images in training and testing: the shorter side, or height and width; crops and'
        ' ranges of sizes change in proportion',
    )


def set_image_size(cfg: Config, sides: Sequence[int]) -> None:
    """Change the size of the images that a model is trained and tested on.

    The size in the test pipeline becomes the new one, and all others, such as those of multi-scale training,
    change by the same factors; crops by the smaller one.

    Args:
        cfg: The config, changed in place.
        sides: The shorter side, or height and width, in pixels.

    Raises:
        UserError: A side is too small, there are more than two, or the config has no size to change.
    """
    given = f'--image-size {" ".join(map(str, sides))}'
    if len(sides) > 2 or min(sides) < _LEAST:
        raise UserError(f'{given}: give the shorter side, or height and width, of at least {_LEAST} pixels')
    width, height = _tested_size(cfg, given)
    if len(sides) == 1:
        factors = (sides[0] / min(width, height),) * 2
    else:
        factors = sides[1] / width, sides[0] / height
    parts = [cfg.get(name) for name in (*LOADERS, 'tta_pipeline')]
    steps = {id(step): step for part in (*parts, cfg.model) for _, step in dicts_in(part)}  # each once
    for step in steps.values():
        for key in _keys(step):
            step[key] = _scaled(step[key], factors if 'scale' in key else (min(factors),) * 2)


def _tested_size(cfg: Config, given: str) -> Sequence[int]:
    """The width and height that the test pipeline resizes to, or those of the crop that it takes then."""
    loader = cfg.get('test_dataloader') or cfg.get('val_dataloader')
    sizes = {key: step[key] for _, step in dicts_in(loader) for key in _keys(step)}
    size = sizes.get('crop_size', sizes.get('scale'))
    if size is None:
        raise UserError(f'{given}: the test pipeline of this config has no size; change it in the config')
    return (size, size) if isinstance(size, int) else size


def _keys(step: dict[str, Any]) -> list[str]:
    """The settings of a transform that are sizes in pixels."""
    kind = str(step.get('type')).rpartition('.')[2]
    return [key for key, kinds in _SIZES.items() if kind in kinds and step.get(key) is not None]


def _scaled(value: Any, factors: Sequence[float]) -> Any:
    """A size, a pair of sizes, or a list of pairs, times the factors of width and height."""
    if isinstance(value, int | float):
        return round(value * min(factors))
    if isinstance(value[0], list | tuple):
        return [_scaled(pair, factors) for pair in value]
    return tuple(round(side * factor) for side, factor in zip(value, factors, strict=True))
