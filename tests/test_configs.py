"""Every config builds its model, trains a step and predicts, whatever the images hold."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import CONFIGS
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmdet.structures.mask import BitmapMasks
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.structures import InstanceData

ARCHS = ('t', 's', 'b', 'l', 'pp_s', 'pp_b', 'pp_l')
MASK_RCNN = [f'mask_rcnn_crossformer_{arch}' for arch in ARCHS]
MILLIONS = {'s': 50.16, 'b': 71.48, 'pp_s': 42.96, 'pp_b': 71.50}


def build(cfg: Config) -> torch.nn.Module:
    init_default_scope(cfg.default_scope)
    return MODELS.build(cfg.model)


def test_the_folder_holds_what_is_tested() -> None:
    assert {path.stem for path in CONFIGS.glob('mask_rcnn_*.py')} == set(MASK_RCNN)


@pytest.mark.parametrize('arch', ARCHS)
def test_full_width(arch: str) -> None:
    cfg = Config.fromfile(CONFIGS / f'mask_rcnn_crossformer_{arch}.py')
    model = build(cfg)
    assert cfg.model.backbone.arch == arch
    assert list(model.backbone.out_channels) == cfg.model.neck.in_channels
    if arch in MILLIONS:
        parameters = sum(parameter.numel() for parameter in model.parameters())
        assert parameters / 1e6 == pytest.approx(MILLIONS[arch], abs=0.006)


@pytest.mark.parametrize('name', MASK_RCNN)
def test_recipe_is_the_published_one(name: str) -> None:
    cfg = Config.fromfile(CONFIGS / f'{name}.py')
    assert cfg.optim_wrapper.optimizer == {'type': 'AdamW', 'lr': 1e-4, 'weight_decay': 1e-4}
    warm_up, steps = cfg.param_scheduler
    assert (warm_up.type, warm_up.start_factor, warm_up.end) == ('LinearLR', 0.001, 500)
    assert (steps.milestones, cfg.train_cfg.max_epochs) == ([8, 11], 12)
    assert cfg.train_dataloader.batch_size * 8 == cfg.auto_scale_lr.base_batch_size == 16


def test_config_runs_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    leaf = tmp_path / 'mine.py'
    leaf.write_text(f'_base_ = "{CONFIGS}/mask_rcnn_crossformer_pp_s.py"\n')
    monkeypatch.chdir(tmp_path)
    assert Config.fromfile('mine.py').model.backbone.arch == 'pp_s'


def batch(counts: tuple[int, ...]) -> dict:
    """Images of 64×80 with so many square objects each, as MMDetection's pipeline hands them over."""
    samples, images = [], []
    for count in counts:
        boxes = torch.tensor([[8.0 * i, 8.0, 8.0 * i + 24, 40.0] for i in range(count)]).reshape(-1, 4)
        masks = torch.zeros(count, 64, 80, dtype=torch.uint8)
        for mask, (left, top, right, bottom) in zip(masks, boxes.int().tolist(), strict=True):
            mask[top:bottom, left:right] = 1
        samples.append(sample(boxes, masks))
        images.append(torch.randint(0, 255, (3, 64, 80), dtype=torch.uint8))
    return {'inputs': images, 'data_samples': samples}


def sample(boxes: torch.Tensor, masks: torch.Tensor) -> DetDataSample:
    truth = InstanceData(
        bboxes=boxes,
        labels=torch.arange(len(boxes)) % 3,
        masks=BitmapMasks(masks.numpy(), 64, 80),
    )
    meta = {'img_shape': (64, 80), 'ori_shape': (64, 80), 'scale_factor': (1.0, 1.0), 'img_id': 0}
    ignored = InstanceData(bboxes=boxes[:0])
    return DetDataSample(gt_instances=truth, ignored_instances=ignored, metainfo=meta)


@pytest.mark.parametrize(
    ('name', 'counts'),
    [*((name, (2, 0)) for name in MASK_RCNN), ('mask_rcnn_crossformer_pp_s', (0, 0))],
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


@pytest.mark.parametrize('name', MASK_RCNN)
def test_prediction(name: str, narrow_config: Callable[[str], Config]) -> None:
    torch.manual_seed(0)
    cfg = narrow_config(name)
    cfg.model.test_cfg.rcnn.score_thr = 0.0
    model = build(cfg).eval()
    with torch.no_grad():
        results = model.test_step(batch((1, 0)))
    assert len(results) == 2
    for result in results:
        found = result.pred_instances
        assert len(found) == 20
        assert found.masks.shape[1:] == (64, 80)
        assert torch.isfinite(found.bboxes).all()
