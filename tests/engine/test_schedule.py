"""Trainings of another length, with schedules in proportion."""

import copy
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from mmengine.config import Config
from mmengine.optim import OptimWrapper
from mmengine.registry import PARAM_SCHEDULERS

from crossformer_mm.engine.schedule import schedules, set_length, shorten_warm_up
from crossformer_mm.utils.errors import UserError


def times(cfg: Config) -> list[dict[str, Any]]:
    """The schedules of a config, as plain dicts of their times."""
    names = ('begin', 'end', 'T_max', 'milestones')
    return [{name: s[name] for name in names if name in s} for s in schedules(cfg.get('param_scheduler'))]


def test_steps_move_in_proportion(config: Callable[[str], Config]) -> None:
    cfg = config('mask_rcnn_crossformer_s_3x')
    set_length(cfg, 72, None)
    assert cfg.train_cfg.max_epochs == 72
    assert cfg.train_cfg.val_interval == 1
    assert times(cfg) == [{'begin': 0, 'end': 500}, {'begin': 0, 'end': 72, 'milestones': [54, 66]}]


def test_a_short_training_has_one_step_where_two_meet(config: Callable[[str], Config]) -> None:
    cfg = config('mask_rcnn_crossformer_s')
    set_length(cfg, 1, None)
    assert times(cfg)[1] == {'begin': 0, 'end': 1, 'milestones': [1]}


def test_iterations(config: Callable[[str], Config]) -> None:
    cfg = config('upernet_crossformer_s')
    set_length(cfg, None, 1600)
    assert (cfg.train_cfg.max_iters, cfg.train_cfg.val_interval) == (1600, 80)
    assert cfg.default_hooks.checkpoint.interval == 80
    assert times(cfg) == [{'begin': 0, 'end': 15}, {'begin': 15, 'end': 1600}]


def test_settings_that_the_user_states_stay(config: Callable[[str], Config]) -> None:
    stated = {
        'train_cfg.val_interval': 500,
        'default_hooks.checkpoint.interval': 100,
        'param_scheduler.0.end': 200,
        'param_scheduler.1.begin': 200,
    }
    cfg = config('upernet_crossformer_s')
    cfg.merge_from_dict(stated)
    set_length(cfg, None, 1600, [f'{name}={value}' for name, value in stated.items()])
    assert (cfg.train_cfg.val_interval, cfg.default_hooks.checkpoint.interval) == (500, 100)
    assert times(cfg) == [{'begin': 0, 'end': 200}, {'begin': 200, 'end': 1600}]


def test_times_of_other_intervals_and_pipelines(config: Callable[[str], Config]) -> None:
    cfg = config('rtmdet_ins_crossformer_s')
    set_length(cfg, 10, None)
    assert cfg.train_cfg.dynamic_intervals == [(9, 1)]
    assert [hook.switch_epoch for hook in cfg.custom_hooks if 'switch_epoch' in hook] == [9]


def test_times_of_other_intervals_and_pipelines_that_the_user_states_stay(
    config: Callable[[str], Config],
) -> None:
    stated = ['custom_hooks.1.switch_epoch=15', 'train_cfg.dynamic_intervals=[(15,1)]']
    cfg = config('rtmdet_ins_crossformer_s')
    cfg.merge_from_dict({'custom_hooks.1.switch_epoch': 15, 'train_cfg.dynamic_intervals': [(15, 1)]})
    set_length(cfg, 20, None, stated)
    assert (cfg.train_cfg.dynamic_intervals, cfg.custom_hooks[1].switch_epoch) == ([(15, 1)], 15)


HOOKS = [
    {'type': 'YOLOXModeSwitchHook', 'num_last_epochs': 15},
    {'type': 'EMAHook', 'begin_epoch': 150, 'begin_iter': 150},
    {'type': 'SwitchRecipeHook', 'schedule': [{'action_epoch': 10}, {'action_epoch': 200}]},
]


def test_times_of_the_first_validation_and_checkpoint_and_of_hooks() -> None:
    def cfg_of(unit: str, stated: Sequence[str] = ()) -> Config:
        checkpoint = {'save_begin': 240, 'by_epoch': unit == 'epochs'}
        cfg = Config(
            {
                'train_cfg': {f'max_{unit}': 300, 'val_begin': 270},
                'default_hooks': {'checkpoint': checkpoint},
                'custom_hooks': copy.deepcopy(HOOKS),
            }
        )
        set_length(cfg, *((30, None) if unit == 'epochs' else (None, 30)), stated)
        return cfg

    cfg = cfg_of('epochs')
    switch, average, recipe = cfg.custom_hooks
    assert (cfg.train_cfg.val_begin, cfg.default_hooks.checkpoint.save_begin) == (27, 24)
    assert (switch.num_last_epochs, average.begin_epoch, average.begin_iter) == (2, 15, 150)
    assert [step.action_epoch for step in recipe.schedule] == [1, 20]
    cfg = cfg_of('iters')
    switch, average, recipe = cfg.custom_hooks
    assert (cfg.train_cfg.val_begin, cfg.default_hooks.checkpoint.save_begin) == (27, 24)
    assert (switch.num_last_epochs, average.begin_epoch, average.begin_iter) == (15, 150, 15)
    assert recipe == HOOKS[2]
    cfg = cfg_of('epochs', ['train_cfg.val_begin=270', 'custom_hooks.2.schedule.1.action_epoch=200'])
    assert (cfg.train_cfg.val_begin, cfg.custom_hooks[2].schedule[1].action_epoch) == (270, 200)


@pytest.mark.parametrize(
    ('begin', 'epochs', 'moved'),
    [(1, 120, 1), (0, 120, 0), (7, 1, 1), (12, 1, 1), (13, 1, 2), (13, 120, 130)],
)
def test_a_first_validation_that_is_at_once_or_never_stays_so(begin: int, epochs: int, moved: int) -> None:
    cfg = Config({'train_cfg': {'max_epochs': 12, 'val_begin': begin}})
    set_length(cfg, epochs, None)
    assert cfg.train_cfg.val_begin == moved


def test_recipes_that_meet_are_refused() -> None:
    cfg = Config({'train_cfg': {'max_epochs': 300}, 'custom_hooks': copy.deepcopy(HOOKS)})
    with pytest.raises(UserError, match='would be in epoch 1; train longer, or remove one of'):
        set_length(cfg, 1, None)


def test_the_last_validation_is_at_the_end(config: Callable[[str], Config]) -> None:
    cfg = config('mask2former_crossformer_s_coco')
    set_length(cfg, None, 2000)
    assert cfg.train_cfg.dynamic_intervals == [(1980, 2000)]


def test_fractions_of_epochs(config: Callable[[str], Config]) -> None:
    cfg = config('crossformer_s_in1k')
    set_length(cfg, 15, None)
    warm_up, cosine = times(cfg)
    assert warm_up == {'end': 1}
    assert cosine == {'begin': 1, 'end': 15, 'T_max': 14}


def test_warm_up_of_iterations_is_at_most_a_tenth(config: Callable[[str], Config]) -> None:
    cfg = config('mask_rcnn_crossformer_s')
    set_length(cfg, 36, None)
    settings = schedules(cfg.param_scheduler)
    line = shorten_warm_up(settings, 14, 4)
    assert line == 'the warm-up takes 14 iterations instead of 500'
    assert settings[0]['end'] == 14
    assert shorten_warm_up(settings, 14, 4) is None


def test_what_follows_a_warm_up_begins_earlier() -> None:
    settings = [
        {'type': 'LinearLR', 'start_factor': 0.001, 'end': 20, 'convert_to_iter_based': True},
        {'type': 'CosineAnnealingLR', 'begin': 20, 'end': 30, 'T_max': 10, 'convert_to_iter_based': True},
    ]
    assert shorten_warm_up(settings, 30, 10) == 'the warm-up takes 30 iterations instead of 200'
    assert settings[0]['end'] == settings[1]['begin'] == 30
    assert (settings[1]['T_max'], settings[1]['end']) == (270, 300)


def one_cycle(begin: int, **more: Any) -> list[dict[str, Any]]:
    """A warm-up, and a cycle from there to the end of 10 epochs."""
    cycle = {'type': 'OneCycleLR', 'eta_max': 1.0, 'begin': begin, 'total_steps': 10 - begin, **more}
    return [{'type': 'LinearLR', 'start_factor': 0.001, 'end': begin, **more}, cycle]


@pytest.mark.parametrize('converted', [False, True])
@pytest.mark.parametrize(('begin', 'epochs'), [(2, 20), (5, 5), (5, 7), (3, 4), (2, 9)])
def test_one_cycle_is_stretched(converted: bool, begin: int, epochs: int) -> None:
    """MMEngine raises an error after its last step."""
    more = {'convert_to_iter_based': True} if converted else {}
    cfg = Config({'train_cfg': {'max_epochs': 10}, 'param_scheduler': one_cycle(begin, **more)})
    set_length(cfg, epochs, None)
    settings = schedules(cfg.param_scheduler)
    shorten_warm_up(settings, max(epochs * 7 // 10, 2), 7)
    assert isinstance(settings[1]['total_steps'], int)
    rates = rates_of(settings, epochs, 7)
    assert max(rates) > 0.8
    assert rates[-1] < (0.2 if converted else 0.7)  # a cycle of few epochs has few steps


def test_periods_are_stretched() -> None:
    restarts = {'type': 'CosineRestartLR', 'periods': [3, 3, 6], 'restart_weights': [1, 1, 1], 'eta_min': 0}

    def periods_of(epochs: int, **more: Any) -> list[float]:
        cfg = Config({'train_cfg': {'max_epochs': 12}, 'param_scheduler': [{**restarts, **more}]})
        set_length(cfg, epochs, None)
        settings = schedules(cfg.param_scheduler)
        shorten_warm_up(settings, 10, 10)
        return settings[0]['periods']

    assert periods_of(36) == [9, 9, 18]
    assert periods_of(6) == [2, 1, 3]
    assert periods_of(1) == [1, 1, 1]
    assert periods_of(6, convert_to_iter_based=True) == [15, 15, 30]
    warm_up = {'type': 'LinearLR', 'start_factor': 0.1, 'by_epoch': False, 'end': 50}
    settings = [warm_up, {**restarts, 'begin': 50, 'by_epoch': False, 'periods': [20, 30]}]
    shorten_warm_up(settings, 10, 10)
    assert (settings[1]['begin'], settings[1]['periods']) == (10, [20, 70])


@pytest.mark.parametrize('epochs', [1, 2, 15])
@pytest.mark.parametrize('name', ['mask_rcnn_crossformer_s', 'crossformer_s_in1k', 'demo_mask_rcnn'])
def test_the_rate_rises_to_that_of_the_config(
    config: Callable[[str], Config], name: str, epochs: int
) -> None:
    """A warm-up of a single iteration would leave MMEngine's rate at its first value."""
    cfg = config(name)
    set_length(cfg, epochs, None)
    settings = schedules(cfg.param_scheduler)
    shorten_warm_up(settings, max(epochs * 7 // 10, 2), 7)
    rates = rates_of(settings, epochs, 7)
    assert rates[0] < 0.02
    assert max(rates) > 0.7
    assert rates.index(max(rates)) <= max(len(rates) // 10, 2)


@pytest.mark.parametrize('iters', [1, 3, 60, 200])
def test_the_rate_rises_in_short_trainings_of_iterations(config: Callable[[str], Config], iters: int) -> None:
    cfg = config('upernet_crossformer_s')
    set_length(cfg, None, iters)
    rates = rates_of(schedules(cfg.param_scheduler), 1, iters)
    assert rates[0] < 0.02
    assert iters < 3 or max(rates) >= 0.5
    assert iters < 60 or max(rates) > 0.95


def rates_of(settings: list[dict[str, Any]], epochs: int, iterations: int) -> list[float]:
    """The learning rate of each iteration, of 1 at its highest."""
    wrapper = OptimWrapper(torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0))
    built = [PARAM_SCHEDULERS.build(dict(s), default_args={'optimizer': wrapper}) for s in settings]
    rates = []
    for _ in range(epochs):
        for _ in range(iterations):
            rates.append(wrapper.param_groups[0]['lr'])
            for scheduler in built:
                if not scheduler.by_epoch:
                    scheduler.step()
        for scheduler in built:
            if scheduler.by_epoch:
                scheduler.step()
    return rates


def test_the_other_unit_is_named(config: Callable[[str], Config]) -> None:
    with pytest.raises(UserError, match='--epochs 3: this config counts its training in iters; give --iters'):
        set_length(config('fpn_crossformer_s'), 3, None)
