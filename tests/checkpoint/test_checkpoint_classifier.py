"""Classifiers: files under the published names load whole in MMPretrain's models, and convert both ways."""

import functools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from checkpoint_files import (
    CLASSES,
    backbone,
    classifier_state,
    prefixed,
    save_classifier,
    save_old_toolbox,
    with_derived_buffers,
)
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from reference import REFERENCE, assert_record, reference_images
from safetensors.torch import save_file
from torch import Tensor, nn

from crossformer_mm import CrossFormer
from crossformer_mm.checkpoint import install_reader, load_backbone, load_model, read_checkpoint
from crossformer_mm.checkpoint.convert import convert_checkpoint, plan_conversion
from crossformer_mm.checkpoint.meta import implied_layout
from crossformer_mm.checkpoint.names import classifier_of, released_of
from crossformer_mm.engine.convert import verify
from crossformer_mm.engine.inferencer import open_inferencer
from crossformer_mm.utils.errors import UserError

TOLERANCE = 2e-5  # relative to the largest value, as the reference file asks for
TINY = {'embed_dims': 16, 'depths': (1, 1, 1, 1), 'num_heads': (1, 1, 1, 1)}
TINY_NAME = 'dict(embed_dims=16, depths=(1, 1, 1, 1), num_heads=(1, 1, 1, 1))'
WIDTH = 128  # of its last stage
HEAD = ['norm.weight', 'norm.bias', 'head.weight', 'head.bias']


@pytest.fixture
def tiny(config: Callable[[str], Config]) -> Config:
    """A classifier's config with the tiny backbone."""
    return tiny_config(config)


def tiny_config(config: Callable[[str], Config]) -> Config:
    cfg = config('crossformer_s_in1k')
    cfg.model.backbone.arch = TINY
    cfg.model.head.update(in_channels=WIDTH, num_classes=CLASSES)
    return cfg


@pytest.fixture(scope='module')
def untouched(config: Callable[[str], Config]) -> nn.Module:
    """A tiny classifier, which nothing may change."""
    return classifier(tiny_config(config))


@pytest.fixture(scope='module')
def released(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny classifier's file under the published names."""
    path = tmp_path_factory.mktemp('released') / 'released.pth'
    return save_classifier(path, tiny_state())


@functools.cache
def _tiny_state() -> dict[str, Tensor]:
    return classifier_state(backbone(TINY))


def tiny_state() -> dict[str, Tensor]:
    """The tiny classifier's tensors under the published names."""
    return {name: tensor.clone() for name, tensor in _tiny_state().items()}


def classifier(cfg: Config) -> nn.Module:
    init_default_scope('mmpretrain')
    return MODELS.build(cfg.model).eval()


def assert_equal(state: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """Check that tensors are equal to the bit, in the same order."""
    assert list(state) == list(expected)
    assert all(state[name].dtype == tensor.dtype for name, tensor in expected.items())
    assert all(torch.equal(state[name], tensor) for name, tensor in expected.items())


def assert_loaded(model: nn.Module) -> None:
    """Check that a model has the weights of :func:`tiny_state`."""
    assert_equal(dict(released_of(model.state_dict())), tiny_state())


# --- names and numbers ---------------------------------------------------------------------------------


def test_names_are_those_of_the_model_and_the_way_back_is_exact(tiny: Config) -> None:
    state = tiny_state()
    ours = classifier_of(state)
    assert ours.keys() == classifier(tiny).state_dict().keys()
    assert ours['head.norm.bias'] is state['norm.bias'] and ours['head.fc.bias'] is state['head.bias']
    assert ours['backbone.patch_embed.norm.bias'] is state['patch_embed.norm.bias']
    assert_equal(released_of(ours), state)


@pytest.mark.slow
@pytest.mark.parametrize('case', REFERENCE['classifier'], ids=lambda case: case['name'])
@torch.no_grad()
def test_released_files_give_the_reference_logits(
    tmp_path: Path, config: Callable[[str], Config], case: dict
) -> None:
    state = classifier_state(backbone(case['arch']), classes=1000)
    path = save_classifier(tmp_path / 'released.pth', state)
    convert_checkpoint(path, tmp_path / 'ours.pth', to='classifier')
    cfg = config(f'crossformer_{case["arch"]}_in1k')
    for source in (path, tmp_path / 'ours.pth'):
        model = classifier(cfg)
        load_model(model, source)
        assert sum(p.numel() for p in model.parameters()) == case['params']
        logits = model(reference_images(case['batch'], tuple(case['size'])))
        assert_record(logits, case['outputs'][0], TOLERANCE)


# --- loading -------------------------------------------------------------------------------------------

FORMS: dict[str, Callable[[Path, dict[str, Tensor]], object]] = {
    'released': save_classifier,
    'legacy format': lambda path, state: save_classifier(path, state, zipped=False),
    'oldest': lambda path, state: save_classifier(path, with_derived_buffers(state)),
    'distributed': lambda path, state: save_classifier(path, prefixed(state, 'module.')),
    'compiled': lambda path, state: save_classifier(path, prefixed(state, '_orig_mod.')),
    'wrapped': lambda path, state: save_classifier(path, prefixed(state, 'encoder.')),
    'with an average': lambda path, state: save_classifier(
        path, state, model_ema={name: tensor + 1 for name, tensor in state.items()}
    ),
    'bare tensors': lambda path, state: torch.save(state, path),
    'safetensors': lambda path, state: save_file(state, path),
    'ours': lambda path, state: torch.save({'state_dict': classifier_of(state)}, path),
    'ours, distributed': lambda path, state: save_old_toolbox(
        path, prefixed(classifier_of(state), 'module.')
    ),
}


QUICK = ('released', 'oldest', 'distributed', 'ours')


@pytest.mark.parametrize(
    'form', [pytest.param(form, marks=() if form in QUICK else pytest.mark.slow) for form in FORMS]
)
def test_every_form_loads_whole_and_converts_both_ways(
    tmp_path: Path, form: str, tiny: Config, logged: list[str]
) -> None:
    state = tiny_state()
    FORMS[form](tmp_path / 'in.pth', state)
    model = classifier(tiny)
    load_model(model, tmp_path / 'in.pth')
    assert_loaded(model)
    assert f'{len(state)} tensors matched, 0 missing, 0 unexpected, 0 of another shape' in logged[-1]
    convert_checkpoint(tmp_path / 'in.pth', tmp_path / 'ours.safetensors', to='classifier')
    assert read_checkpoint(tmp_path / 'ours.safetensors')['state_dict'].keys() == classifier_of(state).keys()
    convert_checkpoint(tmp_path / 'ours.safetensors', tmp_path / 'out.pth', to='released')
    content = torch.load(tmp_path / 'out.pth', weights_only=True)  # as the authors' code reads it
    assert content.keys() == {'meta', 'model'}
    assert {
        name: torch.equal(content['model'][name], tensor) for name, tensor in state.items()
    } == dict.fromkeys(state, True)


def test_mmengines_own_loading_takes_released_files(released: Path, tiny: Config) -> None:
    from mmpretrain.apis import ImageClassificationInferencer, get_model

    install_reader()
    tiny.model.init_cfg = {'type': 'Pretrained', 'checkpoint': str(released)}
    model = classifier(tiny)
    model.init_weights()
    assert_loaded(model)
    del tiny.model.init_cfg
    assert_loaded(get_model(tiny, pretrained=str(released)))
    inferencer = ImageClassificationInferencer(tiny, pretrained=str(released), device='cpu')
    assert_loaded(inferencer.model)
    (result,) = inferencer(np.full((64, 80, 3), 127, np.uint8))
    assert result['pred_scores'].shape == (CLASSES,)


def test_a_released_files_number_of_classes_counts_for_prediction(
    released: Path, tiny: Config, tmp_path: Path
) -> None:
    tiny.model.head.num_classes = 1000
    tiny.dump(tmp_path / 'tiny.py')
    inferencer = open_inferencer(tmp_path / 'tiny.py', released, device='cpu')
    assert_loaded(inferencer.model)
    assert inferencer.classes == tuple(f'class {i}' for i in range(CLASSES))


def without(name: str) -> Callable[[dict[str, Tensor]], object]:
    return lambda state: state.pop(name)


def shaped(name: str, *shape: int) -> Callable[[dict[str, Tensor]], object]:
    return lambda state: state.update({name: torch.ones(shape)})


def without_head(state: dict[str, Tensor]) -> None:
    for name in HEAD:
        del state[name]


def as_a_detector(state: dict[str, Tensor]) -> None:
    without_head(state)
    ours = prefixed(state, 'backbone.') | {'bbox_head.retina_cls.bias': torch.ones(2)}
    state.clear()
    state.update(ours)


@pytest.mark.parametrize(
    ('change', 'loading', 'converting'),
    [
        (without('norm.bias'), '1 missing: head.norm.bias', '1 missing: norm.bias'),
        (without('head.weight'), '1 missing: head.fc.weight', '1 missing: head.weight'),
        (
            without_head,
            'the file holds a backbone, the model is a classifier',
            'which cannot become a classifier',
        ),
        (
            as_a_detector,
            'the file holds a detector, the model is a classifier',
            'holds a detector, which cannot become a classifier: it has no such heads',
        ),
        (
            shaped('head.bias', CLASSES + 1),
            'of another shape: head.fc.bias (11, not 10)',
            'of another shape: head.bias (11, not 10)',
        ),
        (
            shaped('head.weight', CLASSES, 8),
            'of another shape: head.fc.weight (10×8, not 10×128)',
            'of another shape: head.weight (10×8, not 10×128)',
        ),
        (shaped('norm.weight', 8), 'head.norm.weight (8, not 128)', 'norm.weight (8, not 128)'),
        (shaped('head.weight'), 'head.fc.weight (scalar, not', 'head.weight (scalar, not'),
        (shaped('head.extra', 1), '1 unexpected: head.fc.extra', '1 unexpected: head.extra'),
        (
            lambda s: s['head.bias'].fill_(torch.nan),
            'NaN or infinite values in head.fc.bias',
            'NaN or infinite',
        ),
        (without('layers.0.blocks.0.norm1.bias'), '1 missing: backbone.layers.0', '1 missing: layers.0'),
    ],
)
def test_files_that_do_not_fit_are_refused(
    tmp_path: Path, untouched: nn.Module, change: Callable, loading: str, converting: str
) -> None:
    state = tiny_state()
    change(state)
    path = save_classifier(tmp_path / 'a.pth', state)
    before = {name: tensor.clone() for name, tensor in untouched.state_dict().items()}
    for other_classes in (False, True):
        with pytest.raises(UserError) as error:
            load_model(untouched, path, other_classes=other_classes)
        assert loading in str(error.value) and '\n' not in str(error.value)
    assert_equal(dict(untouched.state_dict()), before)
    for to in ('classifier', 'released'):
        with pytest.raises(UserError) as error:
            convert_checkpoint(path, tmp_path / 'out.pth', to=to)
        assert converting in str(error.value) and '\n' not in str(error.value)
    assert [path.name for path in tmp_path.iterdir()] == ['a.pth']


def test_another_arch_is_named_with_both(released: Path, tiny: Config) -> None:
    tiny.model.backbone.arch.depths = (1, 1, 2, 1)
    with pytest.raises(UserError) as error:
        load_model(classifier(tiny), released)
    both = f"(the file's arch is {TINY_NAME}, the model's {TINY_NAME.replace('1, 1, 1, 1', '1, 1, 2, 1', 1)})"
    assert both in str(error.value)


@pytest.mark.parametrize('ours', [False, True])
def test_another_number_of_classes_replaces_the_linear_layer_alone(
    tmp_path: Path, tiny: Config, logged: list[str], ours: bool
) -> None:
    state = classifier_of(tiny_state())
    path = save_classifier(tmp_path / 'a.pth', state if ours else released_of(state))
    tiny.model.head.num_classes = 3
    model = classifier(tiny)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    load_model(model, path, other_classes=True)
    anew = ['head.fc.weight', 'head.fc.bias']
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, (before if name in anew else state)[name]), name
    (warning,) = [line for line in logged if 'another number of classes' in line]
    assert 'than the model (10, not 3); 2 tensors' in warning and warning.endswith(', '.join(anew))


# --- transfer ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(('ours', 'parts'), [(False, 'norm, head'), (True, 'head')])
def test_a_backbone_takes_a_classifier_and_says_what_it_leaves(
    tmp_path: Path, logged: list[str], ours: bool, parts: str
) -> None:
    state = tiny_state()
    state = (
        {'state_dict': classifier_of(state), 'meta': {'crossformer_mm': {'long_distance': 'window'}}}
        if ours
        else state
    )
    path = tmp_path / 'a.pth'
    torch.save(state, path)
    model = CrossFormer(TINY)
    load_backbone(model, path)
    assert_equal(dict(model.state_dict()), dict(backbone(TINY).state_dict()))
    assert logged[-1].endswith(f'; left out: {parts}')
    assert len(logged) == 1  # another layout needs no warning: a backbone is trained on
    model = CrossFormer(TINY, init_cfg={'type': 'Pretrained', 'checkpoint': str(path)})
    model.init_weights()
    assert_equal(dict(model.state_dict()), dict(backbone(TINY).state_dict()))


@pytest.mark.parametrize(
    ('arch', 'layouts'),
    [(TINY, ('map', 'window')), (TINY | {'depths': (1, 1, 4, 1), 'acl': True}, ('window',))],
)
def test_conversions_keep_the_layout(arch: dict, layouts: tuple[str, ...]) -> None:
    checkpoint = {'model': classifier_state(backbone(arch))}
    assert implied_layout(checkpoint).layouts == layouts
    for to in ('classifier', 'released', 'backbone'):
        conversion = plan_conversion(checkpoint, to)
        checkpoint = {'meta': conversion.meta, 'state_dict': conversion.state}
        assert implied_layout(checkpoint) == (layouts, 'noted in the file')


# --- the report ----------------------------------------------------------------------------------------


def test_reports_name_the_kind_and_what_is_dropped(released: Path, tmp_path: Path, tiny: Config) -> None:
    tiny.dump(tmp_path / 'tiny.py')
    with_image = functools.partial(verify, tmp_path / 'tiny.py')
    ours, back = tmp_path / 'ours.pth', tmp_path / 'back.pth'
    report = convert_checkpoint(released, ours, to='classifier', verify=with_image)
    assert 'kind      classifier, converted to a classifier of MMPretrain' in report
    assert f'arch      {TINY_NAME}' in report
    assert 'classes   10, not named in the file' in report
    assert not any("the classifier's" in line for line in report)
    (line,) = [line for line in report if line.startswith('verified')]
    assert line.endswith('a 128×160 image gives 2 finite outputs')
    report = convert_checkpoint(ours, back, to='released', verify=with_image)
    assert 'kind      classifier, converted to a classifier with the published names' in report
    assert not any(line.startswith('dropped') for line in report)
    report = convert_checkpoint(ours, tmp_path / 'backbone.pth')
    assert 'kind      classifier, converted to a backbone' in report
    names = 'head.norm.weight, head.norm.bias, head.fc.weight, head.fc.bias'
    assert f"dropped   4, the classifier's norm and head: {names}" in report


def test_class_names_go_both_ways() -> None:
    state = classifier_of(classifier_state(backbone(TINY), classes=2))
    checkpoint = {'state_dict': state, 'meta': {'dataset_meta': {'classes': ['cat', 'dog']}}}
    released = plan_conversion(checkpoint, 'released')
    assert 'classes   2: cat, dog' in released.report
    ours = plan_conversion({'model': released.state, 'meta': released.meta}, 'classifier')
    assert ours.meta['dataset_meta'] == {'classes': ('cat', 'dog')}


def test_a_complete_model_of_another_kind_is_not_converted() -> None:
    with pytest.raises(UserError, match='holds a classifier, which cannot become a detector'):
        plan_conversion({'model': tiny_state()}, 'detector')
