"""bfloat16 inside the network, float32 where boxes and losses are computed."""

import copy
from collections.abc import Callable

import pytest
import torch
from detection_batch import batch
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.optim import OptimWrapper
from mmengine.registry import init_default_scope
from mmpretrain.registry import MODELS as CLASSIFIERS
from mmpretrain.structures import DataSample
from torch import nn

from crossformer_mm.engine.mixed_precision import BFloat16OptimWrapper


@pytest.fixture
def model(narrow_config: Callable[[str], Config]) -> nn.Module:
    cfg = narrow_config('mask_rcnn_crossformer_s')
    init_default_scope(cfg.default_scope)
    torch.manual_seed(0)
    return MODELS.build(cfg.model).train()


def dtype_of(outputs: torch.Tensor | tuple[torch.Tensor, ...]) -> torch.dtype:
    return outputs.dtype if torch.is_tensor(outputs) else outputs[0].dtype


def step(model: nn.Module, wrapper: OptimWrapper) -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    return model.train_step(batch((2, 1)), wrapper)


def test_a_step_in_bfloat16(model: nn.Module) -> None:
    twin = copy.deepcopy(model)
    wrapper = BFloat16OptimWrapper(torch.optim.SGD(model.parameters(), lr=1e-3))
    wrapper.initialize_count_status(model, 0, 1)
    dtypes: dict[str, torch.dtype] = {}
    watched = {
        'neck': model.neck,
        'boxes': model.roi_head.bbox_head,
        'masks': model.roi_head.mask_head,
        'fully connected': model.roi_head.bbox_head.fc_cls,
        'crops': model.roi_head.bbox_roi_extractor,
    }
    for name, module in watched.items():
        module.register_forward_hook(
            lambda _module, _inputs, outputs, name=name: dtypes.update({name: dtype_of(outputs)})
        )
    losses = step(model, wrapper)
    assert dtypes == {
        'neck': torch.bfloat16,
        'boxes': torch.float32,
        'masks': torch.float32,
        'fully connected': torch.bfloat16,
        'crops': torch.float32,
    }
    plain = step(twin, OptimWrapper(torch.optim.SGD(twin.parameters(), lr=1e-3)))
    assert losses['loss_rpn_cls'].item() == pytest.approx(plain['loss_rpn_cls'].item(), rel=0.02)


def test_a_classifier_has_logits_and_a_loss_in_float32(narrow_classifier: Callable[[str], Config]) -> None:
    cfg = narrow_classifier('crossformer_s_in1k')
    init_default_scope(cfg.default_scope)
    cfg.model.train_cfg = None  # no mixed images
    model = CLASSIFIERS.build(cfg.model).train()
    wrapper = BFloat16OptimWrapper(torch.optim.SGD(model.parameters(), lr=1e-3))
    wrapper.initialize_count_status(model, 0, 1)
    dtypes: list[torch.dtype] = []
    for module in (model.backbone, model.head):
        module.register_forward_hook(lambda _module, _inputs, outputs: dtypes.append(dtype_of(outputs)))
    samples = [DataSample().set_gt_label(label) for label in (0, 1)]
    with wrapper.optim_context(model):
        losses = model(torch.rand(2, 3, 32, 32), samples, mode='loss')
    assert dtypes == [torch.bfloat16, torch.float32]
    assert losses['loss'].dtype == torch.float32
