"""Another size of images in all pipelines of a config, in training and testing."""

import argparse
from collections.abc import Sequence
from typing import Any

from mmengine.config import Config

from ..utils.errors import UserError
from .datasets import LOADERS, dicts_in

_BORDER = 'border'  # pixels that are added at each side, or if negative, cut off, as of a mosaic
# The transforms of the toolboxes that state a size in pixels, and where. 'slide' is the mode of a segmentor's
# test_cfg, which tests on windows.
_SIZES = {
    'scale': ('Resize', 'RandomResize', 'ResizeEdge', 'RandomResizedCrop', 'ResizeShortestEdge'),
    'scales': ('RandomChoiceResize',),
    'max_size': ('RandomChoiceResize', 'ResizeShortestEdge'),
    'crop_size': ('RandomCrop', 'CenterCrop', 'RandomCenterCropPad', 'slide'),
    'stride': ('slide',),
    'size': ('Pad', 'SegDataPreProcessor', 'BatchFixedSizePad'),
    'random_size_range': ('BatchSyncRandomResize',),
    'img_scale': ('Mosaic', 'MixUp', 'CachedMosaic', 'CachedMixUp'),
    _BORDER: ('RandomAffine',),
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
    change by the same factors. If the ratio of the sides is kept, one factor is that of the longer sides and
    one that of the shorter ones, which is also that of crops.

    Args:
        cfg: The config, changed in place.
        sides: The shorter side, or height and width, in pixels.

    Raises:
        UserError: A side is too small, there are more than two, or the config has no size to change, or only
            square ones.
    """
    given = f'--image-size {" ".join(map(str, sides))}'
    if len(sides) > 2 or min(sides) < _LEAST:
        raise UserError(f'{given}: give the shorter side, or height and width, of at least {_LEAST} pixels')
    size, keeps_ratio = _tested_size(cfg, given)
    if isinstance(size, int):
        if len(set(sides)) > 1:
            raise UserError(f'{given}: the images of this config are square; give one side')
        size = (size, size)
    if len(sides) == 1:
        factors = (sides[0] / min(size),) * 2
    elif keeps_ratio:
        factors = max(sides) / max(size), min(sides) / min(size)
    else:
        factors = sides[1] / size[0], sides[0] / size[1]
    crop = (factors[1] if keeps_ratio else min(factors),) * 2
    parts = [cfg.get(name) for name in (*LOADERS, 'tta_pipeline', 'custom_hooks')]  # hooks switch pipelines
    steps = {id(step): step for part in (*parts, cfg.model) for _, step in dicts_in(part)}  # each once
    for step in steps.values():
        for key in _keys(step):
            wanted = factors if 'scale' in key or key == _BORDER else crop
            if key == 'scales':
                step[key] = [_scaled(size, wanted, keeps_ratio) for size in step[key]]
            else:
                step[key] = _scaled(step[key], wanted, keeps_ratio)


def sizes_in(part: Any) -> list[str]:
    """Describe the sizes in a part of a config, such as ``'Resize 1333×800'``, each once.

    Args:
        part: The part, such as a data loader.
    """
    found = [(step['type'], step[key]) for _, step in dicts_in(part) for key in _keys(step) if key != _BORDER]
    return list(dict.fromkeys(f'{str(kind).rpartition(".")[2]} {_shown(value)}' for kind, value in found))


def smaller_side(cfg: Config) -> int | None:
    """Three quarters of the shorter side that ``--image-size`` sets, a multiple of 32; None without one."""
    try:
        size, _ = _tested_size(cfg, '--image-size')
    except UserError:
        return None
    side = size if isinstance(size, int) else min(size)
    return max(round(side * 3 / 4 / _LEAST) * _LEAST, _LEAST)


def _shown(size: Any) -> str:
    if isinstance(size, list | tuple) and size and isinstance(size[0], list | tuple):
        return f'{_shown(size[0])} to {_shown(size[-1])}'
    return '×'.join(map(str, size)) if isinstance(size, list | tuple) else str(size)


def _tested_size(cfg: Config, given: str) -> tuple[int | Sequence[int], bool]:
    """The width and height that the test pipeline resizes to, and whether the ratio of the sides is kept.

    If the pipeline takes a crop then, it is the crop's size.
    """
    loader = cfg.get('test_dataloader') or cfg.get('val_dataloader')
    for name, part in (('training', cfg.train_dataloader), ('test', loader)):
        steps = {key: step for _, step in dicts_in(part) for key in _keys(step)}
        if not steps or (name == 'test' and not {'crop_size', 'scale'} & steps.keys()):
            raise UserError(
                f'{given}: the {name} pipeline of this config has no size; change it in the config'
            )
    key = 'crop_size' if 'crop_size' in steps else 'scale'
    return steps[key][key], steps[key].get('keep_ratio', False)


def _keys(step: dict[str, Any]) -> list[str]:
    """The settings of a transform that are sizes in pixels."""
    kind = str(step.get('type', step.get('mode'))).rpartition('.')[2]
    return [key for key, kinds in _SIZES.items() if kind in kinds and step.get(key) is not None]


def _scaled(value: Any, factors: Sequence[float], keeps_ratio: bool) -> Any:
    """A size, or a pair of sizes, times the factors.

    They are those of width and height; or if the ratio is kept, of the longer and the shorter side, which
    then have any order.
    """
    if isinstance(value, int | float):
        return round(value * min(factors))
    if keeps_ratio and abs(value[0]) < abs(value[1]):
        factors = factors[::-1]
    return tuple(round(side * factor) for side, factor in zip(value, factors, strict=True))
