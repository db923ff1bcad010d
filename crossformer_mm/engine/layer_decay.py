"""Layer-wise decay of the learning rate: the deeper a layer of the backbone, the slower it learns."""

import argparse
from typing import Any

from mmengine.config import Config
from mmengine.logging import print_log
from mmengine.optim import DefaultOptimWrapperConstructor
from torch import nn

from ..data.datasets import type_name
from ..models.crossformer import CrossFormer
from ..utils.errors import UserError
from .schedule import schedules

CONSTRUCTOR = 'CrossFormerLayerDecayConstructor'


class CrossFormerLayerDecayConstructor(DefaultOptimWrapperConstructor):
    """MMEngine's constructor of optimizers, with lower learning rates for the backbone's first layers.

    The rate of a layer is ``decay_rate`` times the one of the layer after it, up to neck and heads, which
    have the full rate. Everything else in ``paramwise_cfg`` has its usual meaning; its multiples of the
    learning rate are multiplied with those of the layers.

    Args:
        optim_wrapper_cfg: As for MMEngine's constructor.
        paramwise_cfg: As for MMEngine's constructor, with ``decay_rate``, above 0 and at most 1.
    """

    def add_params(self, params: list[dict], module: nn.Module, prefix: str = '', **kwargs: Any) -> None:
        """Add the groups of a module's parameters, those with the same settings in one group.

        Args:
            params: The groups, changed in place.
            module: The module.
            prefix: Its name in the model; empty for the model itself.
            kwargs: As for MMEngine's constructor.
        """
        super().add_params(params, module, prefix, **kwargs)
        if prefix:  # a part of the model, in the recursion
            return
        powers = layer_powers(module)
        groups: dict[str, dict[str, Any]] = {}
        for group in params:
            (parameter,) = group.pop('params')
            if power := powers.get(parameter):
                group['lr'] = group.get('lr', self.base_lr) * self.paramwise_cfg['decay_rate'] ** power
            groups.setdefault(repr(sorted(group.items())), {'params': [], **group})['params'].append(
                parameter
            )
        params[:] = groups.values()
        least = min(group.get('lr', self.base_lr) for group in params)
        print_log(
            f'layer decay {self.paramwise_cfg["decay_rate"]:g}: learning rates from {least:.3g} in the first'
            f' layers to {self.base_lr:.3g} in the heads, {len(params)} groups of parameters',
            'current',
        )


def layer_powers(model: nn.Module) -> dict[nn.Parameter, int]:
    """How many layers are above each parameter of a model's backbones; neck and heads count as one.

    Args:
        model: The model.

    Raises:
        UserError: The model has no CrossFormer.
    """
    networks = [part for part in model.modules() if isinstance(part, CrossFormer)]
    if not networks:
        raise UserError(f'{CONSTRUCTOR}: the model has no CrossFormer backbone, whose layers it knows')
    return {
        parameter: power
        for network in networks
        for power, parts in enumerate(reversed(layers(network)), 1)
        for part in parts
        for parameter in part.parameters()
    }


def layers(network: CrossFormer) -> list[list[nn.Module]]:
    """The layers of a backbone: the first embedding, then each block, with an embedding before it.

    Args:
        network: The backbone.
    """
    found: list[list[nn.Module]] = [[network.patch_embed]]
    before: list[nn.Module] = []
    for stage in network.layers:
        for block in stage.blocks:
            found.append([*before, block])
            before = []
        before = [stage.downsample] if stage.downsample else []
    return found


def add_decay_option(parser: argparse.ArgumentParser) -> None:
    """Add ``--layer-decay``."""
    parser.add_argument(
        '--layer-decay',
        type=float,
        metavar='X',
        help='multiply the learning rate of each layer of the backbone by X for every layer above it, such as'
        ' 0.75: the first layers, which pretraining has taught most, change least',
    )


def set_layer_decay(cfg: Config, rate: float) -> None:
    """Let the learning rate decrease from the heads to the first layer of the backbone.

    A lowest learning rate of a cosine schedule becomes a part of each layer's own rate, which may be lower;
    other schedules have no such setting.

    Args:
        cfg: The config, changed in place.
        rate: The ratio of the rates of two neighbouring layers.

    Raises:
        UserError: The rate is invalid, the optimizer is built in another way, or a schedule's lowest learning
            rate would be that of all layers.
    """
    given = f'--layer-decay {rate:g}'
    if not 0 < rate <= 1:
        raise UserError(f'{given}: must be a number above 0 and at most 1, such as 0.75')
    wrapper = cfg.optim_wrapper
    constructor = wrapper.get('constructor', CONSTRUCTOR)
    if constructor not in (CONSTRUCTOR, 'DefaultOptimWrapperConstructor'):
        raise UserError(f'{given}: the config builds its optimizer with {constructor}; set the rates there')
    if 'lr' not in (wrapper.get('optimizer') or {}):
        raise UserError(
            f'{given}: the config has several optimizers, or one without lr; set one with lr in it'
        )
    wrapper.constructor = CONSTRUCTOR
    wrapper.paramwise_cfg = {**(wrapper.get('paramwise_cfg') or {}), 'decay_rate': rate}
    settings = cfg.get('param_scheduler')
    for i, scheduler in enumerate(schedules(settings)):
        kind = type_name(scheduler)
        if not kind.endswith('LR') or not scheduler.get('eta_min'):
            continue
        if kind not in ('CosineAnnealingLR', 'CosineRestartLR'):
            place = 'param_scheduler' if isinstance(settings, dict) else f'param_scheduler.{i}'
            raise UserError(
                f'{given}: {place} is a {kind} with eta_min={scheduler["eta_min"]:g}, to which'
                f' the lower rates of the first layers would rise; add --cfg-options {place}.eta_min=0'
            )
        scheduler['eta_min_ratio'] = scheduler.pop('eta_min') / wrapper.optimizer.lr
