"""Loading: every kind of file gives the reference outputs, and no file is loaded partially."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from checkpoint_files import (
    NARROW,
    NARROW_NAME,
    backbone,
    classifier_state,
    prefixed,
    save_classifier,
    save_every_kind,
    save_old_toolbox,
    with_derived_buffers,
)
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from reference import REFERENCE, assert_record, reference_images
from torch import Tensor, nn

from crossformer_mm import CrossFormer
from crossformer_mm.checkpoint import load_backbone, load_model, read_checkpoint, recognise_arch
from crossformer_mm.models.arch import ARCHS
from crossformer_mm.utils.errors import UserError

TOLERANCE = 2e-5  # relative to the largest value, as the reference file asks for


@pytest.fixture(scope='module')
def released_t(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A released classification file of CrossFormer-T with the rule's weights."""
    path = tmp_path_factory.mktemp('released') / 'crossformer-t.pth'
    return save_classifier(path, classifier_state(backbone('t'), classes=1000))


def snapshot(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def assert_unchanged(model: nn.Module, before: dict[str, Tensor]) -> None:
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@torch.no_grad()
def test_released_classification_file_gives_the_reference_numbers(released_t: Path) -> None:
    model = CrossFormer('t', init_cfg={'type': 'Pretrained', 'checkpoint': str(released_t)}).eval()
    model.init_weights()
    features = model(reference_images(2, (224, 224)))
    case = next(case for case in REFERENCE['backbone'] if case['name'] == 't-224')
    for feature, record in zip(features, case['outputs'], strict=True):
        assert_record(feature, record, TOLERANCE)
    head = read_checkpoint(released_t)['model']
    norm = nn.functional.layer_norm(
        features[-1].permute(0, 2, 3, 1), (512,), head['norm.weight'], head['norm.bias']
    )
    logits = nn.functional.linear(norm.mean((1, 2)), head['head.weight'], head['head.bias'])
    case = next(case for case in REFERENCE['classifier'] if case['name'] == 't-cls')
    assert_record(logits, case['outputs'][0], TOLERANCE)


@pytest.mark.parametrize('acl', [False, True])
def test_every_shape_of_file_loads_whole(tmp_path: Path, acl: bool, logged: list[str]) -> None:
    source = backbone(NARROW | {'acl': acl})
    for name, path in save_every_kind(tmp_path, source).items():
        model = CrossFormer(NARROW | {'acl': acl})
        load_backbone(model, path)
        tolerance = 0.01 if name == 'half' else 0
        torch.testing.assert_close(model.state_dict(), source.state_dict(), rtol=tolerance, atol=tolerance)
        count = len(source.state_dict())
        assert f'{count} tensors matched, 0 missing, 0 unexpected, 0 of another shape; long_d' in logged[-1]


def test_stages_that_are_not_built_are_left_out(tmp_path: Path) -> None:
    path = save_classifier(tmp_path / 'a.pth', classifier_state(backbone()))
    model = CrossFormer(NARROW, out_indices=(0, 2))
    load_backbone(model, path)
    assert torch.equal(
        model.state_dict()['layers.2.blocks.3.mlp.fc2.bias'],
        backbone().state_dict()['layers.2.blocks.3.mlp.fc2.bias'],
    )


@pytest.mark.parametrize(
    ('change', 'named'),
    [
        (lambda s: s.pop('layers.1.blocks.0.attn.proj.bias'), '1 missing: layers.1.blocks.0.attn.proj.bias'),
        (lambda s: s.update({'layers.3.extra': torch.ones(1)}), '1 unexpected: layers.3.extra'),
        (
            lambda s: s.update({'patch_embed.norm.bias': torch.ones(7)}),
            r'1 of another shape: patch_embed.norm.bias \(7, not 32\)',
        ),
        (
            lambda s: s.update({'patch_embed.norm.bias': torch.full((32,), torch.nan)}),
            'NaN or infinite values in patch_embed.norm.bias',
        ),
        (
            lambda s: s['layers.0.blocks.0.mlp.fc1.weight'][3, 5].fill_(-torch.inf),
            'NaN or infinite values in layers.0.blocks.0.mlp.fc1.weight',
        ),
    ],
)
def test_backbone_never_loads_in_part(tmp_path: Path, change: Callable, named: str) -> None:
    state = classifier_state(backbone())
    change(state)
    path = save_classifier(tmp_path / 'a.pth', state)
    model = CrossFormer(NARROW)
    before = snapshot(model)
    with pytest.raises(UserError, match=named) as error:
        load_backbone(model, path)
    assert str(path) in str(error.value) and '\n' not in str(error.value)
    assert_unchanged(model, before)


def test_names_in_a_file_cannot_break_the_line(tmp_path: Path) -> None:
    state = classifier_state(backbone()) | {'layers.0.a\n\x1b[2J': torch.ones(1)}
    with pytest.raises(UserError, match=r'unexpected: layers\.0\.a\\n\\x1b\[2J') as error:
        load_backbone(CrossFormer(NARROW), save_classifier(tmp_path / 'a.pth', state))
    assert str(error.value).isprintable()


def test_another_arch_is_named_with_both(tmp_path: Path, logged: list[str]) -> None:
    path = save_classifier(tmp_path / 'a.pth', classifier_state(backbone(NARROW | {'acl': True})))
    with pytest.raises(UserError) as error:
        load_backbone(CrossFormer(NARROW), path)
    both = f"the file's arch is {NARROW_NAME[:-1]}, acl=True), the model's {NARROW_NAME}"
    assert both in str(error.value)
    assert 'ex_conv' in str(error.value)
    assert '4 unexpected' in logged[-1]


def test_checkpoint_without_tensors_is_named(tmp_path: Path) -> None:
    torch.save({'meta': {'epoch': 3}, 'state_dict': {}}, tmp_path / 'a.pth')
    with pytest.raises(UserError, match='holds no tensors, but meta, state_dict'):
        load_backbone(CrossFormer(NARROW), tmp_path / 'a.pth')


@pytest.mark.parametrize('arch', ARCHS)
def test_every_arch_is_recognised_by_its_tensors(arch: str) -> None:
    with torch.device('meta'):
        state = CrossFormer(arch).state_dict()
    assert recognise_arch(state) == arch
    assert recognise_arch(prefixed(state, 'backbone.') | {'neck.a': torch.ones(1)}) == arch


def test_other_sizes_are_described_and_missing_stages_named() -> None:
    assert recognise_arch(CrossFormer(NARROW).state_dict()) == NARROW_NAME
    with pytest.raises(UserError, match='only the stages 1, 2 of the 4 of a CrossFormer'):
        recognise_arch(CrossFormer(NARROW, out_indices=(1,)).state_dict())


# --- complete models --------------------------------------------------------------------------------------


def detector(cfg: Config) -> nn.Module:
    init_default_scope('mmdet')
    return MODELS.build(cfg.model)


@pytest.fixture
def narrow(narrow_config: Callable[[str], Config]) -> Config:
    return narrow_config('mask_rcnn_crossformer_s')


def test_whole_model_loads_and_returns_its_meta(tmp_path: Path, narrow: Config) -> None:
    source, path = detector(narrow), tmp_path / 'a.pth'
    meta = {'dataset_meta': {'classes': ('a',)}}
    torch.save({'state_dict': source.state_dict(), 'meta': meta}, path)
    model = detector(narrow)
    checkpoint = load_model(model, path)
    assert checkpoint['meta']['dataset_meta'] == {'classes': ('a',)}
    assert_unchanged(model, source.state_dict())


def test_whole_model_of_the_oldest_backbone_loads(tmp_path: Path, narrow: Config) -> None:
    source = detector(narrow)
    path = save_old_toolbox(
        tmp_path / 'a.pth', prefixed(with_derived_buffers(source.state_dict()), 'module.')
    )
    model = detector(narrow)
    load_model(model, path)
    assert_unchanged(model, source.state_dict())


@pytest.mark.parametrize(('text', 'layout'), [('', 'map'), (', adaptive_interval=False', 'window')])
def test_another_layout_than_the_models_is_a_warning(
    text: str, layout: str, tmp_path: Path, narrow: Config, logged: list[str]
) -> None:
    config = f"backbone = dict(type='CrossFormer_S'{text})"
    path = save_old_toolbox(tmp_path / 'a.pth', detector(narrow).state_dict(), config=config)
    for ours in ('map', 'window'):
        narrow.model.backbone.long_distance = ours
        load_model(detector(narrow), path)
        (counts,) = [line for line in logged if 'tensors matched' in line]
        warnings = [line for line in logged if 'was trained with' in line]
        assert f"of another shape; long_distance {layout} (the file's config" in counts
        assert len(warnings) == (ours != layout)
        assert not warnings or warnings[0].endswith(f'model.backbone.long_distance={layout}')
        logged.clear()


def test_whole_model_that_is_not_finite_is_left(tmp_path: Path, narrow: Config) -> None:
    state = detector(narrow).state_dict()
    state['roi_head.bbox_head.fc_cls.bias'][0] = torch.inf
    torch.save({'state_dict': state}, tmp_path / 'a.pth')
    with pytest.raises(UserError, match=r'NaN or infinite values in roi_head\.bbox_head\.fc_cls\.bias'):
        load_model(detector(narrow), tmp_path / 'a.pth')


def other_arch(cfg: Config) -> None:
    cfg.model.backbone.arch.depths = (1, 1, 5, 1)


def other_classes(cfg: Config) -> None:
    cfg.model.roi_head.bbox_head.num_classes = 3


def other_head(cfg: Config) -> None:
    cfg.model.roi_head.pop('mask_head')


def assert_not_loaded(
    path: Path, cfg: Config, change: Callable[[Config], None], named: str, **options: bool
) -> None:
    """Check that a changed model refuses the unchanged one's weights in one line, and stays as it was."""
    torch.save({'state_dict': detector(cfg).state_dict()}, path)
    change(cfg)
    model = detector(cfg)
    before = snapshot(model)
    with pytest.raises(UserError, match=named) as error:
        load_model(model, path, **options)
    assert '\n' not in str(error.value)
    assert_unchanged(model, before)


@pytest.mark.parametrize(
    ('change', 'named'),
    [
        (other_arch, r'missing: backbone\.layers\.2\.blocks\.4\.norm1'),
        (other_classes, r'of another shape: roi_head\.bbox_head\.fc_cls\.weight \(81×\d+, not 4×\d+\)'),
        (other_head, r'unexpected: roi_head\.mask_head'),
    ],
)
def test_whole_model_that_does_not_fit_is_named_and_left(
    tmp_path: Path, narrow: Config, change: Callable[[Config], None], named: str
) -> None:
    assert_not_loaded(tmp_path / 'a.pth', narrow, change, named)


def other_anchors(cfg: Config) -> None:
    cfg.model.roi_head.bbox_head.num_classes = 3
    cfg.model.rpn_head.anchor_generator.ratios = [1.0]


def test_whole_model_of_another_number_of_classes(tmp_path: Path, narrow: Config, logged: list[str]) -> None:
    source = detector(narrow).state_dict()
    torch.save({'state_dict': source}, tmp_path / 'a.pth')
    for head in (narrow.model.roi_head.bbox_head, narrow.model.roi_head.mask_head):
        head.num_classes = 3
    model = detector(narrow)
    before = snapshot(model)
    load_model(model, tmp_path / 'a.pth', other_classes=True)
    layers = ('bbox_head.fc_cls', 'bbox_head.fc_reg', 'mask_head.conv_logits')
    anew = [f'roi_head.{layer}.{kind}' for layer in layers for kind in ('weight', 'bias')]
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, (before if name in anew else source)[name]), name
    (warning,) = [line for line in logged if 'another number of classes' in line]
    assert warning.endswith(f'6 tensors are not loaded, but initialised: {", ".join(anew)}')


@pytest.mark.parametrize(
    ('change', 'named'),
    [
        (other_arch, r'missing: backbone\.layers\.2\.blocks\.4\.norm1'),
        (other_head, r'unexpected: roi_head\.mask_head'),
        (other_anchors, r'of another shape: rpn_head\.rpn_cls\.weight'),
    ],
)
def test_other_differences_than_the_number_of_classes_stop(
    tmp_path: Path, narrow: Config, change: Callable[[Config], None], named: str
) -> None:
    assert_not_loaded(tmp_path / 'a.pth', narrow, change, named, other_classes=True)
