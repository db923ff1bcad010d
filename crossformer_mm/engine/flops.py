"""``crossformer flops``: count the parameters and multiply-adds of a model and of its parts."""

import argparse
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from mmengine.config import Config
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import init_default_scope
from mmengine.structures import BaseDataElement
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from ..compat import CPU_ATTENTION, unseen, without_data
from ..data.datasets import build_network
from ..models.crossformer import IMAGE_CHANNELS
from ..utils.errors import UserError
from ..utils.text import printable
from .config import check_has_model, load_config
from .config_options import CONFIG_HELP, add_cfg_options

PROPOSALS, MASKS = 1000, 100
MAX_PIXELS = 8192 * 8192
RULE = (
    'What is counted: the multiply-adds of convolutions, linear layers and the two products of attention, for'
    f' one image of the given size. A two-stage model classifies {PROPOSALS} proposals and predicts {MASKS}'
    ' masks in each of its stages. An auxiliary head, which only training uses, is listed but not included in'
    " the whole model's multiply-adds. Norms, activations, interpolation, the sampling of regions and of"
    ' deformable attention, and postprocessing are not counted.'
)
# Height and width of the image for which papers count, by a config's default scope.
SHAPES = {'mmdet': (800, 1280), 'mmseg': (1024, 1024), 'mmpretrain': (224, 224)}
_TRAINING_ONLY = 'auxiliary_head'
# they run on the neck's or the backbone's maps
_DENSE_HEADS = ('rpn_head', 'bbox_head', 'panoptic_head', 'decode_head', 'head', _TRAINING_ONLY)


def flops_parser() -> argparse.ArgumentParser:
    """The options of the command."""
    options = argparse.ArgumentParser(
        description='Count parameters and multiply-adds of a model.', epilog=RULE
    )
    options.add_argument('config', help=CONFIG_HELP)
    options.add_argument(
        '--shape',
        nargs=2,
        type=int,
        metavar=('H', 'W'),
        help='height and width of the image in pixels'
        ' (800 1280 for detectors, 1024 1024 for segmentors, 224 224 for classifiers)',
    )
    add_cfg_options(options)
    return options


def print_flops(options: argparse.Namespace) -> None:
    """Count a config's model and print the table.

    Args:
        options: The options parsed by :func:`flops_parser`.

    Raises:
        UserError: The config or the shape is invalid.
    """
    cfg = load_config(options.config, options.cfg_options)
    height, width = options.shape or usual_shape(cfg)
    parts = count(build_model(cfg), height, width)
    print(f'{printable(options.config)}, one image of {height}×{width} pixels\n\n{table(parts)}\n\n{RULE}')


@dataclass(frozen=True)
class Part:
    """The cost of a part of a model.

    Attributes:
        name: The attribute of the model that holds the part.
        parameters: Number of parameters.
        multiply_adds: Number of multiply-adds for one image.
    """

    name: str
    parameters: int
    multiply_adds: int


def build_model(cfg: Config) -> nn.Module:
    """Build the model of a config.

    Args:
        cfg: The config.

    Returns:
        The model in evaluation mode and frozen, with BN in place of SyncBN, which needs several processes.

    Raises:
        UserError: The config has no model, or the model cannot be built.
    """
    init_default_scope(cfg.get('default_scope') or 'mmdet')
    check_has_model(cfg)
    return revert_sync_batchnorm(build_network(cfg, cfg.model)).eval().requires_grad_(False)


def usual_shape(cfg: Config) -> tuple[int, int]:
    """The image size for which papers report the multiply-adds of such models.

    Args:
        cfg: The config.

    Returns:
        Height and width in pixels; those of detectors if the config has no default scope.
    """
    return SHAPES.get(cfg.get('default_scope'), SHAPES['mmdet'])


def count(model: nn.Module, height: int, width: int) -> list[Part]:
    """Count a detector, a segmentor or a classifier, part by part.

    Args:
        model: From :func:`build_model`.
        height: Height in pixels of the image that enters the backbone.
        width: Width of that image in pixels.

    Returns:
        Its backbone, neck and heads (of a DETR, all after the neck as one part), then the total, without the
        multiply-adds of an auxiliary head.

    Raises:
        UserError: The size is not allowed, or the model has parts that cannot be counted.
    """
    if min(height, width) < 1 or height * width > MAX_PIXELS:
        raise UserError(
            f'--shape {height} {width}: give a height and a width of at least 1 pixel,'
            f' and at most {MAX_PIXELS} pixels in all'
        )
    _check_parts(model)
    with torch.no_grad(), without_data():
        parts = list(_count_parts(model, torch.empty(1, IMAGE_CHANNELS, height, width)))
    multiply_adds = sum(part.multiply_adds for part in parts if part.name != _TRAINING_ONLY)
    return [*parts, Part('whole model', _parameters(model), multiply_adds)]


def flop_counter() -> FlopCounterMode:
    """PyTorch's FLOP counter, extended to fused attention on CPUs; a multiply-add is two FLOPs."""
    return FlopCounterMode(display=False, custom_mapping={CPU_ATTENTION: _attention_flops})


def _attention_flops(query: torch.Size, key: torch.Size, value: torch.Size, *_: Any, **__: Any) -> int:
    """The FLOPs for the shapes (B, h, N, d), (B, h, M, d) and (B, h, M, e)."""
    B, h, N, d = query
    return 2 * B * h * N * key[2] * (d + value[3])


def table(parts: Sequence[Part]) -> str:
    """Format parts as a table.

    Args:
        parts: From :func:`count`.

    Returns:
        A line of headings, and one line per part.
    """
    lines = [f'{"":<20}{"parameters":>14}{"multiply-adds":>16}']
    for part in parts:
        parameters, multiply_adds = f'{part.parameters / 1e6:.3f} M', f'{part.multiply_adds / 1e9:.2f} G'
        lines.append(f'{part.name:<20}{parameters:>14}{multiply_adds:>16}')
    return '\n'.join(lines)


def _check_parts(model: nn.Module) -> None:
    """Raise a :class:`UserError` if a model has parameters in parts that would not be counted."""
    known = {'backbone', 'neck', *_DENSE_HEADS, 'roi_head'}
    unknown = [name for name, part in model.named_children() if name not in known and _parameters(part)]
    unknown = [] if _is_detr(model) else unknown
    counted = ('bbox_head', 'mask_head')
    for name, part in model.roi_head.named_children() if getattr(model, 'roi_head', None) else ():
        if name not in counted and _parameters(part):
            unknown.append(f'roi_head.{name}')
    if unknown or not hasattr(model, 'backbone'):
        raise UserError(
            f'cannot count a {type(model).__name__} with {", ".join(unknown) or "no backbone"}:'
            f' only {", ".join(sorted(known))} can be counted'
        )


def _count_parts(model: nn.Module, image: Tensor) -> Iterator[Part]:
    part, maps = _run('backbone', model.backbone, image)
    yield part
    if getattr(model, 'neck', None) is not None:
        part, maps = _run('neck', model.neck, maps)
        yield part
    if _is_detr(model):
        yield _count_transformer(model, maps, image)
        return
    for name in _DENSE_HEADS:
        if getattr(model, name, None) is not None:
            yield _count_heads(name, getattr(model, name), maps)
    roi_head = getattr(model, 'roi_head', None)
    if roi_head is not None:
        yield _count_regions('roi_head.bbox_head', roi_head.bbox_head, roi_head.bbox_roi_extractor, PROPOSALS)
    if roi_head is not None and roi_head.with_mask:
        yield _count_regions('roi_head.mask_head', roi_head.mask_head, roi_head.mask_roi_extractor, MASKS)


def _run(name: str, module: nn.Module, inputs: Any) -> tuple[Part, Any]:
    """The cost of a part, and its outputs for the next."""
    with flop_counter() as counter:
        outputs = module(inputs)
    return Part(name, _parameters(module), counter.get_total_flops() // 2), outputs


def _count_heads(name: str, heads: nn.Module, maps: Any) -> Part:
    """The cost of one or several heads on maps; a segmentor may have several auxiliary heads."""
    if hasattr(heads, 'pixel_decoder'):  # of Mask2Former; its outputs do not depend on the samples
        return Part(name, _parameters(heads), _multiply_adds(lambda values: heads(values, []), maps))
    multiply_adds = sum(_run(name, head, maps)[0].multiply_adds for head in _as_list(heads))
    return Part(name, _parameters(heads), multiply_adds)


def _is_detr(model: nn.Module) -> bool:
    return hasattr(model, 'forward_transformer')


def _count_transformer(model: nn.Module, maps: Sequence[Tensor], image: Tensor) -> Part:
    """The cost of a DETR's encoder, decoder and head, which share layers."""
    size = tuple(image.shape[-2:])
    sample = BaseDataElement(metainfo={'img_shape': size, 'batch_input_shape': size})
    parameters = _parameters(model) - _parameters(model.backbone) - _parameters(model.neck)

    def run(values: Sequence[Tensor]) -> None:
        model.bbox_head(**model.forward_transformer(values, [sample]))

    return Part('transformer', parameters, _multiply_adds(run, maps))


def _multiply_adds(run: Callable[[Sequence[Tensor]], Any], maps: Sequence[Tensor]) -> int:
    """The multiply-adds of a function of maps that computes sizes from values, so that it needs some."""
    with unseen():
        values = [torch.zeros(tuple(x.shape)) for x in maps]
        with flop_counter() as counter:
            run(values)
    return counter.get_total_flops() // 2


def _count_regions(name: str, heads: nn.Module, extractors: nn.Module, regions: int) -> Part:
    """The cost of heads on regions of the maps; a cascade has a list with one head per stage."""
    multiply_adds = 0
    for head, extractor in zip(_as_list(heads), _as_list(extractors), strict=True):
        size = extractor.roi_layers[0].output_size
        part, _ = _run(name, head, torch.empty(regions, extractor.out_channels, *size))
        multiply_adds += part.multiply_adds
    return Part(name, _parameters(heads), multiply_adds)


def _as_list(module: nn.Module) -> Sequence[nn.Module]:
    return list(module) if isinstance(module, nn.ModuleList) else [module]


def _parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
