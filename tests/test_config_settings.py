"""The settings that MMEngine reads: what works passes, and what does not is named with what is near."""

import copy
from collections.abc import Callable

import pytest
from mmengine.config import Config, ConfigDict
from mmengine.registry import init_default_scope
from mmengine.visualization import Visualizer
from torch import nn

from crossformer_mm.engine.config import allow_no_workers, make_resumable, stop_on_nan
from crossformer_mm.engine.settings import check_groups, check_settings
from crossformer_mm.utils.errors import UserError

ALL = ('train', 'val', 'test')
DETECTORS = ('mask_rcnn_crossformer_s', 'retinanet_crossformer_b', 'cascade_mask_rcnn_crossformer_s_3x')
SEGMENTORS = ('fpn_crossformer_s', 'upernet_crossformer_s', 'demo_semantic_fpn')


@pytest.fixture
def cfg(config: Callable[[str], Config]) -> Config:
    """A detector's config; its model is left alone."""
    init_default_scope('mmdet')
    return config('mask_rcnn_crossformer_s')


def refusal(cfg: Config, *splits: str) -> str:
    """What is said of a config that does not work, for training with any small model."""
    with pytest.raises(UserError) as raised:
        check_groups(cfg, splits or ALL)
        check_settings(cfg, splits or ALL, nn.Linear(1, 1))
    assert '\n' not in str(raised.value)
    return str(raised.value)


@pytest.mark.parametrize('name', [*DETECTORS, *SEGMENTORS, 'demo_mask_rcnn'])
def test_the_configs_pass(config: Callable[[str], Config], name: str) -> None:
    """As a run has them, and once more: nothing is changed or left behind."""
    cfg = config(name)
    init_default_scope(cfg.default_scope)
    make_resumable(cfg)
    stop_on_nan(cfg, 1)
    allow_no_workers(cfg)
    before = copy.deepcopy(cfg.to_dict())
    for _ in range(2):
        check_groups(cfg, ALL)
        check_settings(cfg, ALL, nn.Linear(1, 1))
    assert cfg.to_dict() == before
    assert not Visualizer._instance_dict


def test_what_takes_any_argument_passes(cfg: Config) -> None:
    cfg.custom_hooks = [{'type': 'EMAHook', 'ema_type': 'ExpMomentumEMA', 'momentum': 0.01}]
    cfg.default_hooks.timer = None
    for split in ('val', 'test'):
        for part in ('dataloader', 'cfg', 'evaluator'):
            cfg.pop(f'{split}_{part}')
    check_groups(cfg, ('train', 'val'))
    check_settings(cfg, ('train', 'val'), nn.Linear(1, 1))


def test_near_names_are_named(cfg: Config) -> None:
    cfg.optim_wrapper.optimizer.type = 'adamwx'
    said, _, near = refusal(cfg).rpartition(': ')
    assert said == 'optim_wrapper.optimizer.type=adamwx: no optimizer has this name; the nearest'
    assert 'AdamW' in near.split(', ')


def test_near_arguments_are_named_from_base_classes_too(cfg: Config) -> None:
    cfg.train_dataloader.dataset.filter_cgf = {}
    said = refusal(cfg)
    assert said.startswith(
        'train_dataloader.dataset.filter_cgf: CocoDataset has no such argument; the nearest:'
    )
    assert 'filter_cfg' in said


def test_parts_within_parts_are_named_by_their_places(cfg: Config) -> None:
    step = ConfigDict(type='RandomChoice', transforms=[[{'type': 'RandomFlip'}], [{'type': 'RandomFlop'}]])
    cfg.train_dataloader.dataset.pipeline.insert(2, step)
    dataset = cfg.train_dataloader.dataset
    cfg.train_dataloader.dataset = ConfigDict(type='ConcatDataset', datasets=[dataset, dataset])
    where = 'train_dataloader.dataset.datasets.0.pipeline.2.transforms.1.0.type=RandomFlop: no transform'
    assert refusal(cfg).startswith(where)


def test_parts_that_the_run_does_not_use_are_left_alone(cfg: Config) -> None:
    cfg.test_evaluator.type = 'Nothing'
    check_settings(cfg, ('train', 'val'), nn.Linear(1, 1))
    assert refusal(cfg, 'test').startswith('test_evaluator.type=Nothing: no metric has this name')


def test_schedulers_are_tried_on_the_optimizer(cfg: Config) -> None:
    cfg.param_scheduler[0].start_factor = 3
    said = refusal(cfg)
    assert said.startswith('param_scheduler.0 cannot be used with type=')
    assert 'start_factor=3' in said


def test_what_goes_together(cfg: Config) -> None:
    cfg.val_evaluator = None
    assert refusal(cfg) == ('val_evaluator is missing; val_dataloader, val_cfg, val_evaluator go together')
