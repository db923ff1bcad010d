"""The learning rate of each parameter with layer decay, and that nothing else of the optimizer changes."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from torch import nn

from crossformer_mm import CrossFormer
from crossformer_mm.engine.layer_decay import CONSTRUCTOR, set_layer_decay
from crossformer_mm.models.crossformer import ARCHS
from crossformer_mm.utils.errors import UserError

LR = 0.01
# Layers above each part of CrossFormer-S, of 2, 2, 6 and 2 blocks; the heads count as one.
ABOVE_S = {
    'backbone.patch_embed.': 13,
    'backbone.layers.0.blocks.0.': 12,
    'backbone.layers.0.blocks.1.': 11,
    'backbone.layers.0.downsample.': 10,
    'backbone.layers.1.blocks.0.': 10,
    'backbone.layers.1.blocks.1.': 9,
    'backbone.layers.1.downsample.': 8,
    'backbone.layers.2.blocks.0.': 8,
    'backbone.layers.2.blocks.1.': 7,
    'backbone.layers.2.blocks.2.': 6,
    'backbone.layers.2.blocks.3.': 5,
    'backbone.layers.2.blocks.4.': 4,
    'backbone.layers.2.blocks.5.': 3,
    'backbone.layers.2.downsample.': 2,
    'backbone.layers.3.blocks.0.': 2,
    'backbone.layers.3.blocks.1.': 1,
    'neck.': 0,
    'decode_head.': 0,
}


def settings(paramwise: dict | None = None, decay: float | None = None, **backbone: Any) -> dict[str, dict]:
    """The optimizer's settings of each parameter of a model, by name."""
    with torch.device('meta'):
        parts = {'backbone': CrossFormer(**{'arch': 's', **backbone})}
        model = nn.ModuleDict(parts | {'neck': nn.Conv2d(8, 8, 1), 'decode_head': nn.LayerNorm(8)})
    wrapper = {'optimizer': {'type': 'AdamW', 'lr': LR, 'weight_decay': 0.5}, 'paramwise_cfg': paramwise}
    if decay:
        wrapper.update(constructor=CONSTRUCTOR, paramwise_cfg={**(paramwise or {}), 'decay_rate': decay})
    names = {parameter: name for name, parameter in model.named_parameters()}
    groups = build_optim_wrapper(model, wrapper).optimizer.param_groups
    return {names[parameter]: group for group in groups for parameter in group['params']}


def test_rates_of_s_by_hand() -> None:
    found = settings(decay=0.5)
    for name, group in found.items():
        (above,) = [above for start, above in ABOVE_S.items() if name.startswith(start)]
        assert group['lr'] == LR * 0.5**above, name
    assert len({id(group) for group in found.values()}) == 14


@pytest.mark.parametrize('arch', [arch for arch in ARCHS if arch != 's'])
def test_every_arch_has_one_layer_per_block(arch: str) -> None:
    found = settings(arch=arch, decay=0.9)
    blocks = sum(ARCHS[arch].depths)
    assert found['backbone.patch_embed.norm.weight']['lr'] == pytest.approx(LR * 0.9 ** (blocks + 1))
    assert found[f'backbone.layers.3.blocks.{ARCHS[arch].depths[3] - 1}.norm2.bias']['lr'] == LR * 0.9
    assert len({group['lr'] for group in found.values()}) == blocks + 2


def test_stages_that_are_not_built_do_not_count() -> None:
    found = settings(decay=0.5, out_indices=(0, 1))
    assert found['backbone.layers.1.blocks.1.norm1.weight']['lr'] == LR * 0.5
    assert found['backbone.patch_embed.norm.weight']['lr'] == LR * 0.5**5


@pytest.mark.parametrize(
    'name',
    [
        'dino_crossformer_s',
        'mask2former_crossformer_s_ade20k',
        'segformer_crossformer_s',
        'crossformer_s_in1k',
    ],
)
def test_the_config_s_own_settings_stay(name: str, config: Callable[[str], Config]) -> None:
    """Multiples of the learning rate are multiplied, and the weight decays are the same."""
    paramwise = config(name).optim_wrapper.paramwise_cfg.to_dict()
    before, after = settings(paramwise), settings(paramwise, 0.5)
    assert list(before) == sorted(after, key=list(before).index)
    for parameter, group in after.items():
        (above,) = [above for start, above in ABOVE_S.items() if parameter.startswith(start)]
        assert group['lr'] == before[parameter]['lr'] * 0.5**above, parameter
        assert group['weight_decay'] == before[parameter]['weight_decay'], parameter
    decays = {group['weight_decay'] for group in after.values()}
    assert decays == ({0.5} if name.startswith('dino') else {0, 0.5})


def test_frozen_stages_are_left_out() -> None:
    whole, frozen = settings(decay=0.5), settings(decay=0.5, frozen_stages=2)
    gone = ('backbone.patch_embed.', 'backbone.layers.0.', 'backbone.layers.1.')
    assert set(whole) - set(frozen) == {name for name in whole if name.startswith(gone)}
    assert all(group['lr'] == whole[name]['lr'] for name, group in frozen.items())


def test_the_option_keeps_the_config_s_settings(config: Callable[[str], Config]) -> None:
    cfg = config('crossformer_s_in1k')
    norms = cfg.optim_wrapper.paramwise_cfg.norm_decay_mult
    set_layer_decay(cfg, 0.75)
    assert cfg.optim_wrapper.constructor == CONSTRUCTOR
    assert cfg.optim_wrapper.paramwise_cfg.decay_rate == 0.75
    assert cfg.optim_wrapper.paramwise_cfg.norm_decay_mult == norms
    assert cfg.param_scheduler[1].eta_min_ratio == 1e-5 / cfg.optim_wrapper.optimizer.lr
    assert 'eta_min' not in cfg.param_scheduler[1]  # deep layers would learn faster and faster


def test_no_schedule_raises_the_rates_of_the_first_layers(config: Callable[[str], Config]) -> None:
    cfg = config('mask_rcnn_crossformer_s')
    lowest = {'type': 'mmengine.CosineRestartLR', 'periods': [12], 'eta_min': 1e-5}
    momentum = {'type': 'CosineAnnealingMomentum', 'eta_min': 0.8}
    cfg.param_scheduler = [lowest, momentum]
    set_layer_decay(cfg, 0.75)
    ratio = 1e-5 / cfg.optim_wrapper.optimizer.lr
    kept = {name: value for name, value in lowest.items() if name != 'eta_min'}
    assert cfg.param_scheduler[0] == {**kept, 'eta_min_ratio': ratio}
    assert cfg.param_scheduler[1] == momentum
    poly = {'type': 'PolyLR', 'eta_min': 1e-4}
    for setting, place in ((poly, 'param_scheduler'), ([momentum, poly], r'param_scheduler\.1')):
        cfg.param_scheduler = setting
        message = rf'{place} is a PolyLR with eta_min=0\.0001, .*; add --cfg-options {place}\.eta_min=0'
        with pytest.raises(UserError, match=f'--layer-decay 0.75: {message}'):
            set_layer_decay(cfg, 0.75)
    cfg.param_scheduler = {**poly, 'eta_min': 0}
    set_layer_decay(cfg, 0.75)


@pytest.mark.parametrize('rate', [0, -1, 1.01, float('nan'), float('inf')])
def test_impossible_rates(rate: float, config: Callable[[str], Config]) -> None:
    with pytest.raises(UserError, match=f'--layer-decay {rate:g}: must be a number above 0 and at most 1'):
        set_layer_decay(config('mask_rcnn_crossformer_s'), rate)


@pytest.mark.parametrize(
    ('wrapper', 'message'),
    [
        ({'constructor': 'Other', 'optimizer': {'lr': 1}}, 'builds its optimizer with Other'),
        ({'optimizer': {'type': 'AdamW'}}, 'or one without lr'),
        ({'generator': {'optimizer': {'lr': 1}}}, 'several optimizers'),
    ],
)
def test_other_optimizers(wrapper: dict, message: str, config: Callable[[str], Config]) -> None:
    cfg = config('mask_rcnn_crossformer_s')
    cfg.optim_wrapper = wrapper
    with pytest.raises(UserError, match=message):
        set_layer_decay(cfg, 0.5)


def test_a_model_without_this_backbone() -> None:
    wrapper = {'optimizer': {'type': 'SGD', 'lr': 1}, 'paramwise_cfg': {'decay_rate': 0.5}}
    with pytest.raises(UserError, match='no CrossFormer backbone'):
        build_optim_wrapper(nn.Linear(2, 2), {**wrapper, 'constructor': CONSTRUCTOR})
