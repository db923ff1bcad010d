"""Conversion: the new file loads strictly in models of the current toolboxes and gives the same outputs."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import mmdet
import mmseg
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
from mmdet.apis import init_detector
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner import load_checkpoint
from mmseg.apis import init_model
from reference import fill_by_rule
from safetensors import safe_open
from torch import Tensor, nn

from crossformer_mm import CrossFormer
from crossformer_mm.checkpoint import load_backbone, read_checkpoint
from crossformer_mm.checkpoint.convert import convert_checkpoint, plan_conversion
from crossformer_mm.checkpoint.meta import trained_without_exif
from crossformer_mm.data.datasets import set_num_classes
from crossformer_mm.engine.convert import verify
from crossformer_mm.utils.errors import UserError
from crossformer_mm.utils.files import sha256_of

WIDTHS = [32, 64, 128, 256]
OLD_NAMES = json.loads((Path(__file__).parents[1] / 'data' / 'old_toolbox_names.json').read_text())['names']
COLOURS = [[220, 20, 60], [119, 11, 32]]


def line(report: list[str], start: str) -> str:
    (found,) = [entry for entry in report if entry.startswith(start)]
    return found


# --- backbones -----------------------------------------------------------------------------------------


@pytest.mark.parametrize('suffix', ['.pth', pytest.param('.safetensors', marks=pytest.mark.slow)])
def test_every_shape_becomes_the_same_backbone(tmp_path: Path, suffix: str) -> None:
    state = backbone().state_dict()
    for kind, source in save_every_kind(tmp_path, backbone()).items():
        if kind == 'half':
            continue
        out = tmp_path / f'{kind} out{suffix}'
        digest = sha256_of(source)
        released = ('released', 'legacy format', 'oldest classifier', 'distributed')
        layout = {'long_distance': ['map', 'window']} if kind in released else {}
        if kind == 'oldest segmentor':
            layout = {'long_distance': 'map'}
        report = convert_checkpoint(source, out, to='backbone')
        read = read_checkpoint(out)
        assert list(read) == ['meta', 'state_dict']
        assert read['state_dict'].keys() == state.keys()
        assert all(torch.equal(read['state_dict'][name], tensor) for name, tensor in state.items())
        assert read['meta']['crossformer_mm'] | {'version': ''} == {
            'version': '',
            'arch': NARROW_NAME,
            'kind': 'backbone',
            'source': source.name,
            'source_sha256': digest,
            **layout,
        }
        assert sha256_of(source) == digest and digest in report[0] and sha256_of(out) in report[-1]
        again = tmp_path / f'{kind} again{suffix}'
        convert_checkpoint(out, again)
        load_backbone(CrossFormer(NARROW), again)


def test_report_names_what_is_dropped_and_why(tmp_path: Path) -> None:
    source = save_classifier(tmp_path / 'in.pth', with_derived_buffers(classifier_state(backbone())))
    report = convert_checkpoint(source, tmp_path / 'out.pth', dry_run=True)
    assert f'arch      {NARROW_NAME}' in report
    dropped = [entry.removeprefix('dropped   ') for entry in report if entry.startswith('dropped')]
    assert dropped == [
        "4, the classifier's norm and head: norm.weight, norm.bias, head.weight, head.bias",
        '16, buffers that the network computes itself: layers.0.blocks.0.attn.biases, '
        'layers.0.blocks.0.attn.relative_position_index, layers.1.blocks.0.attn.biases, '
        'layers.1.blocks.0.attn.relative_position_index and 12 more',
        '5, not needed to load weights: optimizer, lr_scheduler, max_accuracy, epoch and 1 more',
    ]
    assert report[-1] == 'out       nothing, a dry run'
    assert [path.name for path in tmp_path.iterdir()] == ['in.pth']


def test_pth_is_read_by_plain_torch_and_holds_its_own_values_alone(tmp_path: Path) -> None:
    big = torch.zeros(1_000_000)
    state = backbone().state_dict() | {'patch_embed.norm.bias': big[5:37]}  # a view keeps all of its storage
    source = save_classifier(tmp_path / 'in.pth', state)
    convert_checkpoint(source, tmp_path / 'out.pth')
    torch.load(tmp_path / 'out.pth', weights_only=True)
    assert source.stat().st_size - (tmp_path / 'out.pth').stat().st_size > 3_900_000


@pytest.mark.parametrize('suffix', ['.pth', '.safetensors'])
def test_half_precision(tmp_path: Path, suffix: str) -> None:
    state = backbone().state_dict()
    source = save_classifier(tmp_path / 'in.pth', state)
    report = convert_checkpoint(source, tmp_path / f'out{suffix}', half=True)
    read = read_checkpoint(tmp_path / f'out{suffix}')['state_dict']
    assert all(torch.equal(read[name], tensor.half()) for name, tensor in state.items())
    assert line(report, 'tensors').endswith('float16')
    load_backbone(CrossFormer(NARROW), tmp_path / f'out{suffix}')


def test_half_precision_that_overflows_stops(tmp_path: Path) -> None:
    state = backbone().state_dict()
    state['layers.0.blocks.0.mlp.fc1.bias'][3] = 1e6
    source = save_classifier(tmp_path / 'in.pth', state)
    with pytest.raises(UserError, match=r'too large for float16 in layers\.0\.blocks\.0\.mlp\.fc1\.bias'):
        convert_checkpoint(source, tmp_path / 'out.pth', half=True)
    assert not (tmp_path / 'out.pth').exists()


def test_digest_in_name_is_the_files_own(tmp_path: Path) -> None:
    source = save_classifier(tmp_path / 'in.pth', backbone().state_dict())
    convert_checkpoint(source, tmp_path / 'out.pth', digest_in_name=True)
    (out,) = tmp_path.glob('out*')
    assert out.name == f'out-{sha256_of(out)[:8]}.pth'
    with pytest.raises(UserError, match='exists'):
        convert_checkpoint(source, tmp_path / 'out.pth', digest_in_name=True)
    convert_checkpoint(source, tmp_path / 'out.pth', digest_in_name=True, overwrite=True)
    assert list(tmp_path.glob('out*')) == [out]


def test_strict_stops_at_strangers_and_otherwise_drops_them(tmp_path: Path) -> None:
    state = backbone().state_dict() | {'norm0.weight': torch.ones(32)}
    source = save_classifier(tmp_path / 'in.pth', state)
    with pytest.raises(UserError, match=r'1 unexpected: norm0\.weight'):
        convert_checkpoint(source, tmp_path / 'out.pth')
    report = convert_checkpoint(source, tmp_path / 'out.pth', strict=False)
    assert 'dropped   1, which the network does not have: norm0.weight' in report
    load_backbone(CrossFormer(NARROW), tmp_path / 'out.pth')


@pytest.mark.parametrize('strict', [True, False])
def test_incomplete_backbones_always_stop(strict: bool) -> None:
    state = dict(backbone().state_dict())
    del state['layers.2.blocks.1.attn.pos.pos2.0.weight']
    with pytest.raises(UserError, match=r'1 missing: layers\.2\.blocks\.1\.attn\.pos\.pos2\.0\.weight'):
        plan_conversion({'model': state}, strict=strict)


def with_value(value: float) -> dict[str, Tensor]:
    state = classifier_state(backbone())
    state['layers.1.blocks.0.attn.qkv.weight'][0, 0] = value
    return state


@pytest.mark.parametrize(
    ('state', 'message'),
    [
        (lambda: {n: t[:1] for n, t in backbone().state_dict().items()}, 'no CrossFormer that can be built'),
        (lambda: prefixed(backbone().state_dict(), 'neck_'), 'holds no CrossFormer'),
        (lambda: with_value(float('nan')), r'NaN or infinite values in layers\.1\.blocks\.0\.attn\.qkv'),
        (lambda: with_value(float('-inf')), r'NaN or infinite values in layers\.1\.blocks\.0\.attn\.qkv'),
    ],
)
def test_what_cannot_be_converted_is_named(state: Callable, message: str) -> None:
    with pytest.raises(UserError, match=message):
        plan_conversion({'model': state()})


# --- complete models of the current toolboxes ----------------------------------------------------------


def detector(name: str, **more: Any) -> Config:
    """One of MMDetection's own models with a narrow CrossFormer."""
    cfg = Config.fromfile(Path(mmdet.__file__).parent / f'.mim/configs/_base_/models/{name}.py')
    cfg.default_scope = 'mmdet'
    cfg.model.backbone = {'type': 'CrossFormer', 'arch': NARROW}
    cfg.model.neck.in_channels = WIDTHS
    cfg.merge_from_dict(more)
    return cfg


def segmentor(name: str, **more: Any) -> Config:
    """One of MMSegmentation's own models with a narrow CrossFormer."""
    cfg = Config.fromfile(Path(mmseg.__file__).parent / f'.mim/configs/_base_/models/{name}.py')
    cfg.default_scope = 'mmseg'
    cfg.model.pretrained = None
    cfg.model.backbone = {'type': 'CrossFormer', 'arch': NARROW}
    cfg.merge_from_dict(more)
    return cfg


def cascade_with_convolutions() -> Config:
    """Three box heads of 4 convolutions with norms and 1 fully connected layer, as published."""
    cfg = detector('cascade-mask-rcnn_r50_fpn', **{'model.neck.out_channels': 16})
    cfg.model.rpn_head.update(in_channels=16, feat_channels=16)
    cfg.model.roi_head.bbox_roi_extractor.out_channels = 16
    cfg.model.roi_head.mask_roi_extractor.out_channels = 16
    cfg.model.roi_head.mask_head.update(in_channels=16, conv_out_channels=16)
    for head in cfg.model.roi_head.bbox_head:
        head.update(
            type='ConvFCBBoxHead',
            num_shared_convs=4,
            num_shared_fcs=1,
            in_channels=16,
            conv_out_channels=16,
            fc_out_channels=32,
            norm_cfg={'type': 'BN'},
        )
    return cfg


CASES: dict[str, Callable[[], Config]] = {
    'retinanet': lambda: detector(
        'retinanet_r50_fpn',
        **{
            'model.neck.out_channels': 16,
            'model.bbox_head.in_channels': 16,
            'model.bbox_head.feat_channels': 16,
            'model.bbox_head.num_classes': 2,
        },
    ),
    'mask r-cnn': lambda: detector(
        'mask-rcnn_r50_fpn',
        **{
            'model.roi_head.bbox_head.fc_out_channels': 32,
            'model.roi_head.mask_head.conv_out_channels': 16,
        },
    ),
    'cascade mask r-cnn': cascade_with_convolutions,
    'semantic fpn': lambda: segmentor(
        'fpn_r50',
        **{
            'model.neck.in_channels': WIDTHS,
            'model.neck.out_channels': 16,
            'model.decode_head.in_channels': [16] * 4,
            'model.decode_head.channels': 8,
        },
    ),
    'upernet': lambda: segmentor(
        'upernet_r50',
        **{
            'model.decode_head.in_channels': WIDTHS,
            'model.decode_head.channels': 8,
            'model.auxiliary_head.in_channels': WIDTHS[2],
            'model.auxiliary_head.channels': 8,
        },
    ),
}


def build(cfg: Config) -> nn.Module:
    init_default_scope(cfg.default_scope)
    return MODELS.build(cfg.model).eval()


def save_old(path: Path, model: nn.Module, **meta: Any) -> Path:
    """The model as the old toolboxes saved it from several GPUs, with an averaging hook's copies."""
    state = with_derived_buffers(model.state_dict())
    state['ema_backbone_patch_embed_norm_bias'] = torch.ones(32)
    return save_old_toolbox(path, prefixed(state, 'module.'), **meta)


@pytest.mark.parametrize('case', CASES)
def test_old_files_load_strictly_in_todays_models(tmp_path: Path, case: str) -> None:
    torch.manual_seed(0)
    cfg = CASES[case]()
    cfg.dump(tmp_path / 'config.py')  # of another number of classes than the file
    set_num_classes(cfg.model, 2)
    old = build(cfg)
    fill_by_rule(old.backbone)
    assert sorted(n for n in old.state_dict() if not n.startswith('backbone.')) == sorted(OLD_NAMES[case])
    source = save_old(tmp_path / 'old.pth', old, CLASSES=('cat', 'dog'), PALETTE=COLOURS)
    report = convert_checkpoint(source, tmp_path / 'new.pth', verify=partial(verify, tmp_path / 'config.py'))

    kind = 'detector' if cfg.default_scope == 'mmdet' else 'segmentor'
    assert f'kind      {kind}, converted to a {kind}' in report
    assert 'classes   2: cat, dog' in report
    assert "dropped   1, the averaging hook's copies: ema_backbone_patch_embed_norm_bias" in report
    assert 'loads strictly in' in line(report, 'verified')
    new = build(cfg)
    load_checkpoint(new, str(tmp_path / 'new.pth'), map_location='cpu', strict=True)
    expected = old.state_dict()
    assert new.state_dict().keys() == expected.keys()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in new.state_dict().items())
    meta = torch.load(tmp_path / 'new.pth', weights_only=True)['meta']
    assert meta['dataset_meta'] == {'classes': ('cat', 'dog'), 'palette': [(220, 20, 60), (119, 11, 32)]}


@pytest.mark.parametrize(
    ('case', 'init'),
    [('retinanet', partial(init_detector, palette='random')), ('semantic fpn', init_model)],
)
def test_toolboxes_take_the_class_names(tmp_path: Path, case: str, init: Callable) -> None:
    cfg = CASES[case]()
    source = save_old(tmp_path / 'old.pth', build(cfg), CLASSES=('cat', 'dog'), PALETTE=COLOURS)
    convert_checkpoint(source, tmp_path / 'new.pth')
    model = init(cfg, str(tmp_path / 'new.pth'), device='cpu')
    assert tuple(model.dataset_meta['classes']) == ('cat', 'dog')


def test_safetensors_carry_class_names_too(tmp_path: Path) -> None:
    source = save_old(tmp_path / 'old.pth', build(CASES['retinanet']()), CLASSES=('cat', 'dog'))
    convert_checkpoint(source, tmp_path / 'new.safetensors')
    with safe_open(tmp_path / 'new.safetensors', 'pt') as file:
        assert json.loads(file.metadata()['crossformer_mm'])['dataset_meta'] == {'classes': ['cat', 'dog']}
    assert read_checkpoint(tmp_path / 'new.safetensors')['meta']['dataset_meta'] == {
        'classes': ['cat', 'dog']
    }


@pytest.mark.parametrize(
    ('meta', 'classes'),
    [
        ({'CLASSES': 'person', 'PALETTE': None}, {'classes': ('person',)}),
        ({'dataset_meta': {'CLASSES': ['a', 'b']}}, {'classes': ('a', 'b')}),
        (
            {'dataset_meta': {'classes': ('a',), 'palette': [(1, 2, 3)]}},
            {'classes': ('a',), 'palette': [(1, 2, 3)]},
        ),
        ({'CLASSES': None}, None),
        (None, None),
    ],
)
def test_class_names_of_every_version(meta: Any, classes: dict | None) -> None:
    state = prefixed(backbone().state_dict(), 'backbone.') | {'bbox_head.a': torch.ones(1)}
    conversion = plan_conversion({'state_dict': state, 'meta': meta})
    assert conversion.meta.get('dataset_meta') == classes


@pytest.mark.parametrize('ignored', [True, False])
def test_how_images_were_turned_is_kept(ignored: bool) -> None:
    config = "dict(type='LoadImageFromFile', color_type='color_ignore_orientation')" if ignored else 'dict()'
    conversion = plan_conversion({'state_dict': backbone().state_dict(), 'meta': {'cfg': config}})
    assert trained_without_exif({'meta': conversion.meta}) is ignored
    assert trained_without_exif({'meta': plan_conversion({'model': backbone().state_dict()}).meta}) is None


def test_verification_that_fails_leaves_no_file(tmp_path: Path) -> None:
    cfg = CASES['retinanet']()
    source = save_old(tmp_path / 'old.pth', build(cfg))
    cfg.model.bbox_head.num_classes = 5
    cfg.dump(tmp_path / 'other.py')
    with pytest.raises(
        UserError, match=r'new\.pth: does not fit the model: .* of another shape: bbox_head\.retina_cls'
    ):
        convert_checkpoint(source, tmp_path / 'new.pth', verify=partial(verify, tmp_path / 'other.py'))
    with pytest.raises(UserError, match=r'nowhere\.py'):
        convert_checkpoint(source, tmp_path / 'new.pth', verify=partial(verify, tmp_path / 'nowhere.py'))
    assert sorted(path.name for path in tmp_path.iterdir()) == ['old.pth', 'other.py']


def test_backbone_is_verified_in_the_configs_own(tmp_path: Path) -> None:
    CASES['semantic fpn']().dump(tmp_path / 'config.py')
    source = save_classifier(tmp_path / 'in.pth', classifier_state(backbone()))
    report = convert_checkpoint(source, tmp_path / 'out.pth', verify=partial(verify, tmp_path / 'config.py'))
    assert line(report, 'verified').endswith('a 128×160 image gives 4 finite outputs')
