"""Every classification config builds its model, trains a step with its own augmentations, and predicts."""

from collections.abc import Callable

import pytest
import torch
from conftest import CONFIGS
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, init_default_scope
from torch import nn

from crossformer_mm import mmpretrain_parts  # noqa: F401, before other modules of MMPretrain

# isort: split
from mmpretrain.structures import DataSample

MILLIONS = {  # counted; the published ones are these, rounded to 0.1
    'crossformer_t_in1k': 27.777,
    'crossformer_s_in1k': 30.657,
    'crossformer_b_in1k': 51.972,
    'crossformer_l_in1k': 91.971,
    'crossformer_pp_s_in1k': 23.325,
    'crossformer_pp_b_in1k': 51.995,
    'crossformer_pp_l_in1k': 92.002,
    'crossformer_pp_h_in1k': 95.963,
}
CLASSIFIERS = sorted(path.stem for path in CONFIGS.glob('crossformer_*_in1k*.py'))


def build(cfg: Config) -> nn.Module:
    init_default_scope(cfg.default_scope)
    return MODELS.build(cfg.model)


def batch(classes: int, size: int) -> dict:
    """Two images with labels, as the data loader gives them."""
    random = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (2, 3, size, size), dtype=torch.uint8, generator=random)
    return dict(inputs=list(images), data_samples=[DataSample().set_gt_label(i % classes) for i in range(2)])


def test_the_folder_holds_what_is_tested() -> None:
    assert MILLIONS.keys() <= set(CLASSIFIERS)


@pytest.mark.parametrize('name', CLASSIFIERS)
def test_file_opens_with_what_it_trains_and_the_command(name: str) -> None:
    text = (CONFIGS / f'{name}.py').read_text()
    assert text.startswith('"""CrossFormer')
    assert f'\n    crossformer train {name}\n"""' in text


@pytest.mark.parametrize('name', MILLIONS)
def test_full_size_model(name: str, config: Callable[[str], Config]) -> None:
    cfg = config(name)
    assert f'crossformer_{cfg.model.backbone.arch}_in1k' == name
    with torch.device('meta'):
        model = build(cfg)
    assert sum(parameter.numel() for parameter in model.parameters()) / 1e6 == pytest.approx(
        MILLIONS[name], abs=5e-4
    )
    rule = model.backbone.layers[2].blocks[1].attn.groups
    expected = (14, 1, 'window') if '_pp_' in name else (7, 2, 'map')
    assert (rule.group_size, rule.interval, rule.layout) == expected


def test_recipe_is_the_published_one(config: Callable[[str], Config]) -> None:
    cfg = config('crossformer_s_in1k')
    assert cfg.optim_wrapper.optimizer == {'type': 'AdamW', 'lr': 1e-3, 'weight_decay': 0.05}
    warm_up, cosine = cfg.param_scheduler
    assert (warm_up.end, cosine.begin, cosine.T_max, cfg.train_cfg.max_epochs) == (20, 20, 280, 300)
    assert cfg.train_dataloader.batch_size * 8 == cfg.auto_scale_lr.base_batch_size == 1024
    assert [step.type for step in cfg.model.train_cfg.augments] == ['Mixup', 'CutMix']
    steps = [step.type for step in cfg.train_dataloader.dataset.pipeline]
    assert steps[1:-1] == ['RandomResizedCrop', 'RandomFlip', 'RandAugment', 'RandomErasing']


def test_only_weights_of_layers_decay(narrow_classifier: Callable[[str], Config]) -> None:
    cfg = narrow_classifier('crossformer_s_in1k')
    model = build(cfg)
    groups = build_optim_wrapper(model, cfg.optim_wrapper).param_groups
    decays = {id(parameter): group['weight_decay'] for group in groups for parameter in group['params']}
    for name, parameter in model.named_parameters():
        assert decays[id(parameter)] == (0.05 if parameter.dim() > 1 else 0), name


@pytest.mark.parametrize('name', ['crossformer_s_in1k', 'crossformer_pp_s_in1k'])
def test_training_steps_reduce_the_loss(name: str, narrow_classifier: Callable[[str], Config]) -> None:
    torch.manual_seed(0)
    cfg = narrow_classifier(name)
    del cfg.model.train_cfg  # the same images in each step
    model = build(cfg)
    model.init_weights()
    optimizer = build_optim_wrapper(model, cfg.optim_wrapper)
    data = batch(cfg.model.head.num_classes, 64)
    losses = [model.train_step(data, optimizer)['loss'].item() for _ in range(8)]
    assert losses[-1] < losses[0] / 2


@pytest.mark.slow
@pytest.mark.parametrize('name', CLASSIFIERS)
def test_step_and_prediction_at_full_size(name: str, config: Callable[[str], Config]) -> None:
    """With Mixup or CutMix, at 224×224."""
    torch.manual_seed(0)
    cfg = config(name)
    model = build(cfg)
    model.init_weights()
    data = batch(1000, 224)
    losses, _ = model.parse_losses(model(**model.data_preprocessor(data, training=True), mode='loss'))
    losses.backward()
    assert 5 < losses < 10  # log(1000) is 6.9
    for parameter_name, parameter in model.named_parameters():
        assert parameter.grad is not None, parameter_name
        assert torch.isfinite(parameter.grad).all(), parameter_name
    with torch.no_grad():
        results = model.eval().test_step(data)
    assert [len(result.pred_score) for result in results] == [1000, 1000]
