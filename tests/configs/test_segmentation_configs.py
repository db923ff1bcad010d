"""Every segmentation config builds its model, trains a step and predicts, at sizes of any remainder."""

import copy
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from conftest import CONFIGS
from mmengine.config import Config
from mmengine.model import revert_sync_batchnorm
from mmengine.optim import build_optim_wrapper
from mmengine.registry import init_default_scope
from mmengine.structures import PixelData
from mmseg.registry import DATASETS, MODELS
from mmseg.structures import SegDataSample
from torch import nn

from crossformer_mm.engine.test import evaluate, evaluation_parser
from crossformer_mm.engine.train import train, training_parser

ARCHS = ('t', 's', 'b', 'l', 'pp_s', 'pp_b', 'pp_l')
SEMANTIC_FPN = [f'fpn_crossformer_{arch}' for arch in ARCHS]
UPERNET = [f'upernet_crossformer_{arch}' for arch in ARCHS]
SEGMENTORS = [*SEMANTIC_FPN, *UPERNET]
# Narrowed, each of the others equals one of these.
DISTINCT = [f'{kind}_crossformer_{arch}' for kind in ('fpn', 'upernet') for arch in ('s', 'pp_s')]
MILLIONS = {
    'fpn_crossformer_s': 34.26,
    'fpn_crossformer_b': 55.57,
    'fpn_crossformer_l': 95.44,
    'fpn_crossformer_pp_s': 27.06,
    'fpn_crossformer_pp_b': 55.60,
    'upernet_crossformer_s': 62.31,
    'upernet_crossformer_b': 83.62,
    'upernet_crossformer_l': 125.48,
    'upernet_crossformer_pp_s': 53.12,
    'upernet_crossformer_pp_b': 83.645,
}


def build(cfg: Config) -> nn.Module:
    init_default_scope(cfg.default_scope)
    return revert_sync_batchnorm(MODELS.build(cfg.model))


@pytest.fixture(scope='session')
def ade_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four training and two validation images in ADE20K's layout, of two classes."""
    root = tmp_path_factory.mktemp('ade')
    random = np.random.default_rng(0)
    for split, count in (('training', 4), ('validation', 2)):
        for kind in ('images', 'annotations'):
            (root / kind / split).mkdir(parents=True)
        for i in range(count):
            labels = np.zeros((61, 91), np.uint8)
            labels[4:, :40], labels[4:, 40:] = 1, 2
            image = (labels[..., None] * 90 + random.integers(0, 60, (61, 91, 3))).astype(np.uint8)
            assert cv2.imwrite(str(root / 'images' / split / f'{i}.jpg'), image)
            assert cv2.imwrite(str(root / 'annotations' / split / f'{i}.png'), labels)
    return root


def test_the_folder_holds_what_is_tested() -> None:
    found = {path.stem for pattern in ('fpn_*.py', 'upernet_*.py') for path in CONFIGS.glob(pattern)}
    assert found == set(SEGMENTORS)


@pytest.mark.parametrize('name', SEGMENTORS)
def test_file_opens_with_what_it_trains_and_the_command(name: str) -> None:
    text = (CONFIGS / f'{name}.py').read_text()
    assert text.startswith('"""Semantic FPN with' if name in SEMANTIC_FPN else '"""UPerNet with')
    assert f'\n    crossformer train {name} --pretrained FILE\n"""' in text


@pytest.mark.parametrize('name', SEGMENTORS)
def test_full_size_model(name: str, config: Callable[[str], Config]) -> None:
    cfg = config(name)
    with torch.device('meta'):
        model = build(cfg)
    assert cfg.model.backbone.arch == name.partition('crossformer_')[2]
    widths = list(model.backbone.out_channels)
    if name in SEMANTIC_FPN:
        assert cfg.model.neck.in_channels == widths
    else:
        assert cfg.model.decode_head.in_channels == widths
        assert cfg.model.auxiliary_head.in_channels == widths[2]
    if name in MILLIONS:
        parameters = sum(parameter.numel() for parameter in model.parameters())
        assert parameters / 1e6 == pytest.approx(MILLIONS[name], abs=0.006)


@pytest.mark.parametrize('name', SEMANTIC_FPN)
def test_recipe_of_semantic_fpn(name: str, config: Callable[[str], Config]) -> None:
    cfg = config(name)
    assert cfg.optim_wrapper.optimizer == {'type': 'AdamW', 'lr': 1e-4, 'weight_decay': 1e-4}
    (poly,) = cfg.param_scheduler
    assert (poly.type, poly.power, poly.eta_min, poly.end) == ('PolyLR', 0.9, 0.0, 80_000)
    assert cfg.train_cfg.max_iters == 80_000
    check_what_both_share(cfg)


@pytest.mark.parametrize('name', UPERNET)
def test_recipe_of_upernet(name: str, config: Callable[[str], Config]) -> None:
    cfg = config(name)
    optimizer = {'type': 'AdamW', 'lr': 6e-5, 'betas': (0.9, 0.999), 'weight_decay': 0.01}
    assert cfg.optim_wrapper.optimizer == optimizer
    warm_up, poly = cfg.param_scheduler
    assert (warm_up.type, warm_up.start_factor, warm_up.begin, warm_up.end) == ('LinearLR', 1e-6, 0, 1500)
    assert (poly.type, poly.power, poly.eta_min) == ('PolyLR', 1.0, 0.0)
    assert (poly.begin, poly.end, cfg.train_cfg.max_iters) == (1500, 160_000, 160_000)
    head = cfg.model.auxiliary_head
    assert (head.type, head.in_index, head.loss_decode.loss_weight) == ('FCNHead', 2, 0.4)
    check_what_both_share(cfg)


def check_what_both_share(cfg: Config) -> None:
    assert cfg.train_dataloader.batch_size * 8 == cfg.auto_scale_lr.base_batch_size == 16
    assert not any(scheduler.by_epoch for scheduler in cfg.param_scheduler)
    assert cfg.model.decode_head.num_classes == 150
    assert cfg.model.get('auxiliary_head', cfg.model.decode_head).num_classes == 150
    (crop,) = [step for step in cfg.train_dataloader.dataset.pipeline if step.type == 'RandomCrop']
    assert crop.crop_size == cfg.model.data_preprocessor.size == (512, 512)


def test_upernet_decays_all_but_norms(narrow_segmentor: Callable[[str], Config]) -> None:
    cfg = narrow_segmentor('upernet_crossformer_pp_s')
    model = build(cfg)
    groups = build_optim_wrapper(model, cfg.optim_wrapper).optimizer.param_groups
    decays = {id(parameter): group['weight_decay'] for group in groups for parameter in group['params']}
    norms = (nn.LayerNorm, nn.modules.batchnorm._BatchNorm)
    for name, module in model.named_modules():
        for parameter in module.parameters(recurse=False):
            assert decays[id(parameter)] == (0.0 if isinstance(module, norms) else 0.01), name


def batch(*sizes: tuple[int, int]) -> dict:
    """Images of these heights and widths, in the format of MMSegmentation's pipelines."""
    images = [torch.randint(0, 255, (3, *size), dtype=torch.uint8) for size in sizes]
    samples = []
    for height, width in sizes:
        labels = torch.randint(0, 150, (1, height, width))
        labels[:, : height // 4] = 255
        meta = {'img_shape': (height, width), 'ori_shape': (2 * height - 1, 2 * width - 1)}
        samples.append(SegDataSample(gt_sem_seg=PixelData(data=labels), metainfo=meta))
    return {'inputs': images, 'data_samples': samples}


@pytest.mark.parametrize('name', DISTINCT)
def test_loss_reaches_every_parameter(name: str, narrow_segmentor: Callable[[str], Config]) -> None:
    torch.manual_seed(0)
    model = build(narrow_segmentor(name)).train()
    data = model.data_preprocessor(batch((64, 64), (47, 61)), training=True)
    losses, _ = model.parse_losses(model(**data, mode='loss'))
    losses.backward()
    assert torch.isfinite(losses)
    for parameter_name, parameter in model.named_parameters():
        assert parameter.grad is not None, parameter_name
        assert torch.isfinite(parameter.grad).all(), parameter_name


@pytest.mark.parametrize('name', DISTINCT)
def test_prediction_of_the_whole_image_and_in_windows(
    name: str, narrow_segmentor: Callable[[str], Config]
) -> None:
    torch.manual_seed(0)
    model = build(narrow_segmentor(name)).eval()
    image = batch((45, 71))
    windows = {'mode': 'slide', 'crop_size': (33, 41), 'stride': (20, 27)}
    one_window = {'mode': 'slide', 'crop_size': (45, 71), 'stride': (20, 27)}
    logits = []
    for settings in ({'mode': 'whole'}, windows, one_window):
        model.test_cfg = Config(settings)
        with torch.no_grad():
            (result,) = model.test_step(copy.deepcopy(image))
        assert result.pred_sem_seg.data.shape == (1, 89, 141)
        logits.append(result.seg_logits.data)
        assert torch.isfinite(logits[-1]).all()
    whole, several, one = logits
    torch.testing.assert_close(one, whole)
    assert not torch.allclose(several, whole)


@pytest.mark.parametrize('name', ['fpn_crossformer_s', 'upernet_crossformer_s'])
def test_images_to_test_on(name: str, config: Callable[[str], Config], ade_root: Path) -> None:
    cfg = config(name)
    init_default_scope('mmseg')
    dataset = cfg.test_dataloader.dataset
    dataset.data_root = str(ade_root)
    plain = DATASETS.build(dataset)[0]
    dataset.pipeline = cfg.tta_pipeline
    views = DATASETS.build(dataset)[0]
    heights = {view.shape[1] for view in views['inputs']}
    assert plain['data_samples'].gt_sem_seg.shape == (61, 91)
    assert len(views['inputs']) == 12
    assert [sample.flip for sample in views['data_samples']] == [False, True] * 6
    assert heights == {256, 384, 512, 640, 768, 896}
    if name == 'fpn_crossformer_s':
        assert plain['inputs'].shape == (3, 512, 768)  # 763.8 wide without
        assert all(side % 32 == 0 for view in views['inputs'] for side in view.shape[1:])
    else:
        assert plain['inputs'].shape == (3, 512, 764)


@pytest.mark.parametrize('name', ['fpn_crossformer_pp_s', 'upernet_crossformer_t'])
def test_prediction_at_many_scales(
    name: str, narrow_segmentor: Callable[[str], Config], ade_root: Path
) -> None:
    cfg = narrow_segmentor(name)
    init_default_scope('mmseg')
    dataset = cfg.test_dataloader.dataset
    dataset.update(data_root=str(ade_root), pipeline=cfg.tta_pipeline)
    views = DATASETS.build(dataset)[0]
    views = {key: [[value] for value in values] for key, values in views.items()}
    model = revert_sync_batchnorm(MODELS.build({**cfg.tta_model, 'module': cfg.model})).eval()
    with torch.no_grad():
        (result,) = model.test_step(views)
    assert result.pred_sem_seg.data.shape == (1, 61, 91)


SLOW = ('upernet_crossformer_pp_s', 'mask2former_crossformer_s_ade20k', 'segformer_crossformer_s')


@pytest.mark.parametrize(
    'name', ['fpn_crossformer_t', *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)]
)
def test_training_and_evaluation(
    name: str, narrow_segmentor: Callable[[str], Config], ade_root: Path, tmp_path: Path
) -> None:
    cfg = narrow_segmentor(name)
    for loader in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
        cfg[loader].dataset.data_root = str(ade_root)
    cfg.train_cfg.update(max_iters=2, val_interval=2)
    cfg.dump(tmp_path / f'{name}.py')
    config, work_dir = str(tmp_path / f'{name}.py'), str(tmp_path / 'run')
    train(training_parser().parse_args([config, '--work-dir', work_dir]))
    best = tmp_path / 'run' / 'best_mIoU_iter_2.pth'
    scores = evaluate(evaluation_parser().parse_args([config, str(best), '--work-dir', work_dir]))
    assert {'mIoU', 'mAcc', 'aAcc'} <= set(scores)
