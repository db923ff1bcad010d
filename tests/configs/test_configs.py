"""Every detection config builds its model, trains a step and predicts, with and without objects."""

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import CONFIGS, groups_of
from detection_batch import batch
from mmdet.registry import DATASETS, MODELS
from mmengine.config import Config
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import init_default_scope

from crossformer_mm.data.classes import read_data, set_classes
from crossformer_mm.data.options import DataOptions, set_data_paths

ARCHS = ('t', 's', 'b', 'l', 'pp_s', 'pp_b', 'pp_l')
SHORT = [f'{kind}_crossformer_{arch}' for kind in ('mask_rcnn', 'retinanet') for arch in ARCHS]
LONG = [f'{kind}_crossformer_{arch}_3x' for kind in ('mask_rcnn', 'cascade_mask_rcnn') for arch in ('s', 'b')]
LARGE = [f'{kind}_crossformer_{arch}_g14' for kind in ('mask_rcnn', 'retinanet') for arch in ('s', 'b')]
PROGRESSIVE = [
    f'{kind}_crossformer_{arch}_pgs' for kind in ('mask_rcnn', 'retinanet') for arch in ('pp_s', 'pp_b')
]
DETECTORS = [*SHORT, *LONG, *LARGE, *PROGRESSIVE]
# Narrowed, each of the others equals one of these.
DISTINCT = [
    *('mask_rcnn_crossformer_s', 'mask_rcnn_crossformer_pp_s', 'retinanet_crossformer_pp_s'),
    *('mask_rcnn_crossformer_s_g14', 'mask_rcnn_crossformer_pp_s_pgs', 'cascade_mask_rcnn_crossformer_s_3x'),
]
GROUPS = {
    'g14': ([14, 14, 7, 7], [16, 8, 2, 1], 'map'),
    'pgs': ([4, 4, 14, 7], [4, 2, 1, 1], 'window'),
    'standard': ([7, 7, 7, 7], [8, 4, 2, 1], 'map'),
}
SEGMENTORS = [f'{kind}_crossformer_{arch}' for kind in ('fpn', 'upernet') for arch in ARCHS]
MILLIONS = {
    'mask_rcnn_crossformer_s': 50.16,
    'mask_rcnn_crossformer_b': 71.48,
    'mask_rcnn_crossformer_pp_s': 42.96,
    'mask_rcnn_crossformer_pp_b': 71.50,
    'retinanet_crossformer_s': 40.83,
    'retinanet_crossformer_b': 62.14,
    'retinanet_crossformer_pp_s': 33.05,
    'retinanet_crossformer_pp_b': 62.16,
    'cascade_mask_rcnn_crossformer_s_3x': 88.0,
}


def build(cfg: Config) -> torch.nn.Module:
    init_default_scope(cfg.default_scope)
    return revert_sync_batchnorm(MODELS.build(cfg.model))


def test_the_folder_holds_what_is_tested() -> None:
    found = {path.stem for path in CONFIGS.glob('*.py') if 'rcnn' in path.stem or 'retinanet' in path.stem}
    assert found == {*DETECTORS, 'demo_mask_rcnn'}


@pytest.mark.parametrize('name', DETECTORS)
def test_file_opens_with_what_it_trains_and_the_command(name: str) -> None:
    text = (CONFIGS / f'{name}.py').read_text()
    assert text.startswith(('"""Mask R-CNN with', '"""RetinaNet with', '"""Cascade Mask R-CNN with'))
    assert f'\n    crossformer train {name} --pretrained FILE\n"""' in text


@pytest.mark.parametrize(
    'name', [name if name in MILLIONS else pytest.param(name, marks=pytest.mark.slow) for name in DETECTORS]
)
def test_full_size_model(name: str, config: Callable[[str], Config]) -> None:
    cfg = config(name)
    assert cfg.model.backbone.arch == re.sub('_(3x|g14|pgs)$', '', name.partition('crossformer_')[2])
    with torch.device('meta'):
        model = build(cfg)
    assert list(model.backbone.out_channels) == cfg.model.neck.in_channels
    if name in MILLIONS:
        parameters = sum(parameter.numel() for parameter in model.parameters())
        assert parameters / 1e6 == pytest.approx(MILLIONS[name], abs=0.05 if '3x' in name else 0.006)


@pytest.mark.parametrize('name', DETECTORS)
def test_recipe_is_the_published_one(name: str, config: Callable[[str], Config]) -> None:
    cfg = config(name)
    assert cfg.optim_wrapper.optimizer == {'type': 'AdamW', 'lr': 1e-4, 'weight_decay': 1e-4}
    warm_up, steps = cfg.param_scheduler
    assert (warm_up.type, warm_up.start_factor, warm_up.end) == ('LinearLR', 0.001, 500)
    milestones, epochs = ([27, 33], 36) if name in LONG else ([8, 11], 12)
    assert (steps.milestones, steps.end, cfg.train_cfg.max_epochs) == (milestones, epochs, epochs)
    assert cfg.train_dataloader.batch_size * 8 == cfg.auto_scale_lr.base_batch_size == 16
    assert ('segm' in cfg.test_evaluator.metric) == (not name.startswith('retinanet'))


@pytest.mark.parametrize('name', LONG)
def test_long_training_is_multi_scale(name: str, config: Callable[[str], Config]) -> None:
    resized, cropped = config(name).train_dataloader.dataset.pipeline[3].transforms
    assert [step.type for step in resized] == ['RandomChoiceResize']
    assert [step.type for step in cropped] == ['RandomChoiceResize', 'RandomCrop', 'RandomChoiceResize']
    assert [tuple(scale) for scale in resized[0].scales] == [(side, 1333) for side in range(480, 801, 32)]


def test_multi_scale_pipeline_makes_images_of_many_sizes(
    config: Callable[[str], Config], coco_root: Path
) -> None:
    cfg = config('cascade_mask_rcnn_crossformer_s_3x')
    set_data_paths(cfg, DataOptions(data_root=str(coco_root)))
    set_classes(cfg, read_data(cfg, ['train_dataloader']).classes)
    init_default_scope('mmdet')
    np.random.seed(0)
    dataset = DATASETS.build(cfg.train_dataloader.dataset)
    sizes = set()
    for index in [*range(len(dataset))] * 2:
        packed = dataset[index]
        truth = packed['data_samples'].gt_instances
        assert len(truth.bboxes) == len(truth.masks) == len(truth.labels)
        sizes.add(tuple(packed['inputs'].shape[1:]))
    assert all(480 <= min(size) <= 800 and max(size) <= 1333 for size in sizes)
    assert len(sizes) > len(dataset) // 2


@pytest.mark.parametrize('name', [*DETECTORS, *SEGMENTORS])
def test_groups(name: str, config: Callable[[str], Config]) -> None:
    large = name in ('fpn_crossformer_s', 'fpn_crossformer_l')
    setting = 'g14' if large else name.rpartition('_')[2]
    assert groups_of(config(name)) == GROUPS.get(setting, GROUPS['standard'])


def test_retinanet_has_five_levels_from_stride_8(config: Callable[[str], Config]) -> None:
    neck = config('retinanet_crossformer_s').model.neck
    assert (neck.start_level, neck.add_extra_convs, neck.num_outs) == (1, 'on_input', 5)


@pytest.mark.parametrize('name', ['cascade_mask_rcnn_crossformer_b_3x', 'fpn_crossformer_pp_b'])
def test_config_runs_from_any_folder(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    leaf = tmp_path / 'mine.py'
    leaf.write_text(f'_base_ = "{CONFIGS}/{name}.py"\n')
    monkeypatch.chdir(tmp_path)
    assert f'crossformer_{Config.fromfile("mine.py").model.backbone.arch}' in name


@pytest.mark.parametrize(
    ('name', 'counts'),
    [
        *((name, (2, 0)) for name in DISTINCT),
        ('mask_rcnn_crossformer_pp_s', (0, 0)),
        ('retinanet_crossformer_pp_s', (0, 0)),
        ('cascade_mask_rcnn_crossformer_s_3x', (0, 0)),
    ],
)
def test_loss_reaches_every_parameter(
    name: str, counts: tuple[int, ...], narrow_config: Callable[[str], Config]
) -> None:
    torch.manual_seed(0)
    model = build(narrow_config(name)).train()
    losses, _ = model.parse_losses(
        model(**model.data_preprocessor(batch(counts), training=True), mode='loss')
    )
    losses.backward()
    assert torch.isfinite(losses)
    for parameter_name, parameter in model.named_parameters():
        assert parameter.grad is not None, parameter_name
        assert torch.isfinite(parameter.grad).all(), parameter_name


@pytest.mark.parametrize('name', DISTINCT)
def test_prediction(name: str, narrow_config: Callable[[str], Config]) -> None:
    torch.manual_seed(0)
    cfg = narrow_config(name)
    settings = cfg.model.test_cfg
    settings.get('rcnn', settings).score_thr = 0.0
    model = build(cfg).eval()
    with torch.no_grad():
        results = model.test_step(batch((1, 0)))
    assert len(results) == 2
    for result in results:
        found = result.pred_instances
        assert len(found) == 20
        assert torch.isfinite(found.bboxes).all()
        if not name.startswith('retinanet'):
            assert found.masks.shape[1:] == (64, 80)
