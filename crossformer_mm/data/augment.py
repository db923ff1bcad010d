"""Another augmentation of the training images, light or strong, with the toolboxes' transforms."""

import argparse
import math
from collections.abc import Iterator, Sequence
from typing import Any

from mmengine.config import Config, ConfigDict

from ..utils.errors import UserError
from .datasets import datasets_of, dicts_in, type_name

LEVELS = ('light', 'strong')
Steps = list[dict[str, Any]]

# What a training pipeline may have between its loading and its packing steps, all of it augmentation.
_REPLACED = (
    *('Resize', 'RandomResize', 'RandomChoiceResize', 'ResizeEdge', 'ResizeShortestEdge', 'ResizeToMultiple'),
    *('RandomCrop', 'CenterCrop', 'RandomCenterCropPad', 'MinIoURandomCrop', 'RandomResizedCrop', 'Expand'),
    *('Pad', 'FilterAnnotations', 'RandomFlip', 'RandomRotate', 'RandomAffine', 'RandomShift'),
    *('PhotoMetricDistortion', 'YOLOXHSVRandomAug', 'ColorJitter', 'Corrupt', 'CutOut', 'RandomErasing'),
    *('AutoAugment', 'RandAugment', 'RandomChoice', 'RandomApply', 'RandomCutOut'),
    *('CachedMosaic', 'CachedMixUp', 'CopyPaste'),
)
_FLIP = {'type': 'RandomFlip', 'prob': 0.5}
_JITTER = 0.8, 1.25  # of sizes in detection
_LARGE_JITTER = 0.1, 2.0
_LARGE_SIZE = 1024  # pixels: that of MMDetection's recipe of large-scale jitter and copy-paste
_SEGMENTATION_SCALES = {'light': (0.75, 1.33), 'strong': (0.5, 2.0)}
_MEAN, _STD = [103.53, 116.28, 123.675], [57.375, 57.12, 58.395]  # of ImageNet, BGR


def add_augment_option(parser: argparse.ArgumentParser) -> None:
    """Add ``--augment``."""
    parser.add_argument(
        '--augment',
        choices=LEVELS,
        help="augment the training images in this way instead of the config's: light changes sizes a little"
        ' and flips; strong, for long trainings, also changes colours, and mixes images where the task'
        ' allows it',
    )


def set_augment(cfg: Config, level: str) -> None:
    """Replace the augmentation in the training pipelines of a config.

    The steps that load images and annotations and that pack them stay, and so do flips and a segmentor's
    crop. The sizes are those of the config.

    Args:
        cfg: The config, changed in place.
        level: One of :data:`LEVELS`.

    Raises:
        UserError: A pipeline is not understood, or the config has no size of images.
    """
    given = f'--augment {level}'
    datasets = [dataset for dataset in datasets_of(cfg, 'train_dataloader') if 'pipeline' in dataset]
    for dataset in datasets:
        load, old, pack = _parts(dataset, given)
        dataset.pipeline = [*load, *_BUILDERS[type_name(pack)](cfg, old, level, given), pack]
    with_masks = [dataset for dataset in datasets if any(map(_loads_masks, dataset.pipeline))]
    if level == 'strong' and datasets and len(with_masks) == len(datasets):
        _copy_and_paste(cfg, with_masks)
    hooks = cfg.get('custom_hooks') or []  # some go back to the config's own pipeline in the last epochs
    cfg.custom_hooks = [hook for hook in hooks if 'switch_pipeline' not in hook]


def augmentation_of(cfg: Config) -> str:
    """The names of the transforms that the training images of a config go through."""
    datasets = reversed(list(datasets_of(cfg, 'train_dataloader')))  # those inside of others come first
    kinds = [type_name(step) for dataset in datasets for step in dataset.get('pipeline', ())]
    kinds += [type_name(step) for step in (cfg.model.get('train_cfg') or {}).get('augments') or ()]
    names = dict.fromkeys(kind for kind in kinds if not kind.startswith(('Load', 'Pack', 'Filter')))
    return ', '.join(names)


def _parts(dataset: ConfigDict, given: str) -> tuple[Steps, Steps, dict[str, Any]]:
    """The steps of a pipeline that load, the augmentation after them, and the step that packs."""
    steps = list(dataset.pipeline)
    count = next((i for i, step in enumerate(steps) if not type_name(step).startswith('Load')), 0)
    load, old, pack = steps[:count], steps[count:-1], steps[-1] if steps else {}
    unknown = [kind for kind in map(type_name, _flat(old)) if kind not in _REPLACED]
    if not load or type_name(pack) not in _BUILDERS:
        reason = f'does not begin with loading and end with {" or ".join(_BUILDERS)}'
    elif unknown:
        reason = f'has the step {unknown[0]}, which may be more than augmentation'
    else:
        return load, old, pack
    raise UserError(f'{given}: the training pipeline of {dataset.type} {reason}; change it in the config')


def _flat(steps: Any) -> Iterator[dict[str, Any]]:
    """All transforms of a pipeline, also those among which one chooses."""
    for step in steps:
        if isinstance(step, dict):
            yield step
        yield from _flat(step.get('transforms', ()) if isinstance(step, dict) else step)


def _loads_masks(step: dict[str, Any]) -> bool:
    return type_name(step) == 'LoadAnnotations' and step.get('with_mask', False)


def _first(steps: Steps, kind: str, otherwise: Any = None) -> Any:
    """The first transform of a kind."""
    return next((step for step in steps if type_name(step) == kind), otherwise)


def _tested(cfg: Config, kind: str, key: str) -> Any:
    """A setting of a transform in the test pipeline; None if there is none."""
    loader = cfg.get('test_dataloader') or cfg.get('val_dataloader') or {}
    return next((step[key] for _, step in dicts_in(loader) if type_name(step) == kind and key in step), None)


def _no_size(given: str, what: str) -> UserError:
    return UserError(
        f'{given}: the config has no {what}, whose size it needs; change the pipeline in the config'
    )


def _detection(cfg: Config, old: Steps, level: str, given: str) -> Steps:
    """Flips and other sizes; or large-scale jitter on a square of about as many pixels as tested images."""
    tested, flip = _tested(cfg, 'Resize', 'scale'), _first(old, 'RandomFlip', _FLIP)
    if not tested:
        raise _no_size(given, 'Resize with a scale in its test pipeline')
    tested = (tested, tested) if isinstance(tested, int) else tuple(tested)
    keep_ratio = _tested(cfg, 'Resize', 'keep_ratio') or False
    whole = _fixed_size(cfg)  # of models that pad all images to one size
    resize = {'type': 'RandomResize', 'resize_type': 'Resize', 'keep_ratio': keep_ratio}
    if level == 'light':
        resize.update(scale=whole or tested, ratio_range=_JITTER)
        return [resize, *(_crop(whole) if whole else ()), flip]
    size = whole or (max(round(math.sqrt(math.prod(tested)) / 32), 1) * 32,) * 2
    resize.update(scale=size, ratio_range=_LARGE_JITTER)
    return [resize, *_crop(size), flip, {'type': 'PhotoMetricDistortion'}, {'type': 'Pad', 'size': size}]


def _fixed_size(cfg: Config) -> tuple[int, int] | None:
    """The width and height to which a model pads all images of a batch, if it has one."""
    augments = (cfg.model.get('data_preprocessor') or {}).get('batch_augments') or ()
    padding = _first(augments, 'BatchFixedSizePad')
    return tuple(padding['size'][::-1]) if padding else None


def _crop(size: tuple[int, int]) -> Steps:
    """A crop of at most this width and height, and without objects of which nothing is left."""
    crop = {'type': 'RandomCrop', 'crop_type': 'absolute', 'crop_size': size}
    return [
        {**crop, 'recompute_bbox': True, 'allow_negative_crop': True},
        {'type': 'FilterAnnotations', 'min_gt_bbox_wh': (1, 1)},
    ]


def _copy_and_paste(cfg: Config, datasets: Sequence[ConfigDict]) -> None:
    """Paste objects of another image into each image, both augmented alone before.

    Args:
        cfg: The config, changed in place.
        datasets: All datasets of images of the training, with masks.
    """
    for dataset in datasets:
        *steps, pack = dataset.pipeline
        # only bitmaps can be pasted
        dataset.pipeline = [{**step, 'poly2mask': True} if _loads_masks(step) else step for step in steps]
    part = min(_first(steps, 'Pad')['size']) / _LARGE_SIZE
    paste = {
        'type': 'CopyPaste',
        'bbox_occluded_thr': round(10 * part),  # pixels, and the toolbox's values for large images
        'mask_occluded_thr': round(300 * part**2),
    }
    left = {'type': 'FilterAnnotations', 'min_gt_bbox_wh': (1, 1), 'keep_empty': False}
    cfg.train_dataloader.dataset = {
        'type': 'MultiImageMixDataset',
        'dataset': cfg.train_dataloader.dataset,
        'pipeline': [paste, left, pack],
    }


def _segmentation(cfg: Config, old: Steps, level: str, given: str) -> Steps:
    """Other sizes around the tested one, the config's crop, flips; and colours and small rotations."""
    size = (cfg.model.get('data_preprocessor') or {}).get('size')
    crop = _first(old, 'RandomCrop', {'type': 'RandomCrop', 'crop_size': size})
    if not crop.get('crop_size'):
        raise _no_size(given, 'RandomCrop in its training pipeline')
    flip = _first(old, 'RandomFlip', _FLIP)
    resize = _resize_maps(_tested(cfg, 'Resize', 'scale'), *_SEGMENTATION_SCALES[level])
    if level == 'light':
        return [resize, crop, flip]
    rotate = {'type': 'RandomRotate', 'prob': 0.5, 'degree': 10, 'seg_pad_val': 255}
    return [resize, rotate, crop, flip, {'type': 'PhotoMetricDistortion'}]


def _resize_maps(scale: Any, least: float, most: float) -> dict[str, Any]:
    """A step that resizes to a random multiple of the tested size, or else of the image's own."""
    if scale:
        return {'type': 'RandomResize', 'scale': scale, 'ratio_range': (least, most), 'keep_ratio': True}
    factors = [least * (most / least) ** (i / 8) for i in range(9)]
    choices = [[{'type': 'Resize', 'scale_factor': factor, 'keep_ratio': True}] for factor in factors]
    return {'type': 'RandomChoice', 'transforms': choices}


def _classification(cfg: Config, old: Steps, level: str, given: str) -> Steps:
    """Crops and flips; or Swin's recipe with random changes, erased parts, and mixed images."""
    size = _tested(cfg, 'CenterCrop', 'crop_size') or _tested(cfg, 'Resize', 'scale')
    if not size:
        raise _no_size(given, 'CenterCrop or Resize in its test pipeline')
    crop = {'type': 'RandomResizedCrop', 'scale': size, 'backend': 'pillow', 'interpolation': 'bicubic'}
    flip = _first(old, 'RandomFlip', {**_FLIP, 'direction': 'horizontal'})
    strong = level == 'strong'
    cfg.model.train_cfg = {'augments': _MIXING} if strong else None
    crop['crop_ratio_range'] = (0.08 if strong else 0.5, 1.0)
    return [crop, flip, *(_CHANGES if strong else ())]


_MIXING = [{'type': 'Mixup', 'alpha': 0.8}, {'type': 'CutMix', 'alpha': 1.0}]
_CHANGES = [
    {
        'type': 'RandAugment',
        'policies': 'timm_increasing',
        'num_policies': 2,
        'total_level': 10,
        'magnitude_level': 9,
        'magnitude_std': 0.5,
        'hparams': {'pad_val': [round(channel) for channel in _MEAN], 'interpolation': 'bicubic'},
    },
    {
        'type': 'RandomErasing',
        'erase_prob': 0.25,
        'mode': 'rand',
        'min_area_ratio': 0.02,
        'max_area_ratio': 1 / 3,
        'fill_color': _MEAN,
        'fill_std': _STD,
    },
]
_BUILDERS = {'PackDetInputs': _detection, 'PackSegInputs': _segmentation, 'PackInputs': _classification}
