"""The backbone is registered under every name that a config may use, also without one of the toolboxes."""

import subprocess
import sys

import pytest
import torch

NAMES = ('CrossFormer', 'mmdet.CrossFormer', 'mmseg.CrossFormer', 'mmpretrain.CrossFormer', 'CrossFormer_S')
BUILD = """
import sys
for absent in {absent!r}:
    sys.modules[absent] = None
import importlib, crossformer_mm
registry = importlib.import_module({registry!r}).MODELS
for name in {names!r}:
    backbone = registry.build(dict(type=name))
    assert type(backbone) is crossformer_mm.CrossFormer, name
    assert backbone.out_channels == (96, 192, 384, 768)
"""


@pytest.mark.parametrize(
    ('registry', 'absent'),
    [
        pytest.param('mmdet.registry', ('mmseg', 'mmpretrain'), marks=pytest.mark.slow),
        pytest.param('mmseg.registry', ('mmdet', 'mmpretrain'), marks=pytest.mark.slow),
        pytest.param('mmpretrain.registry', ('mmdet', 'mmseg'), marks=pytest.mark.slow),
        ('mmengine.registry', ('mmdet', 'mmseg', 'mmpretrain', 'mmcv', 'cv2')),
        pytest.param('mmdet.registry', (), marks=pytest.mark.slow),
    ],
)
def test_every_name_builds(registry, absent, tmp_path):
    code = BUILD.format(registry=registry, absent=absent, names=NAMES)
    done = subprocess.run([sys.executable, '-c', code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert 'not installed' not in done.stderr + done.stdout


@pytest.mark.slow
def test_a_toolbox_that_does_not_import_is_named(tmp_path):
    (tmp_path / 'mmseg').mkdir()
    (tmp_path / 'mmseg' / '__init__.py').write_text('assert False, "MMCV==9.9.9 is used but incompatible"')
    code = BUILD.format(registry='mmdet.registry', absent=(), names=('CrossFormer', 'mmdet.CrossFormer'))
    done = subprocess.run([sys.executable, '-c', code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert 'mmseg, which does not import: MMCV==9.9.9' in done.stderr


def test_published_types_take_the_published_arguments():
    from mmdet.registry import MODELS

    backbone = MODELS.build(
        dict(
            type='CrossFormer_S2',
            group_size=[14, 14, 7, 7],
            crs_interval=[16, 8, 2, 1],
            adaptive_interval=True,
            init_cfg=None,
        )
    )
    groups = backbone.layers[0].blocks[1].attn.groups
    assert backbone.out_channels == (64, 128, 256, 512)
    assert (groups.group_size, groups.interval, groups.adaptive) == (14, 16, True)
    assert backbone.layers[2].blocks[2].ex_conv is not None


@pytest.mark.parametrize(
    ('arguments', 'layout'),
    [
        (dict(group_size=[7, 7, 7, 7], crs_interval=[8, 4, 2, 1]), 'map'),  # as in 2021
        (dict(group_size=[7, 7, 7, 7], crs_interval=[8, 4, 2, 1], adaptive_interval=False), 'window'),
        (dict(adaptive_interval=True), 'window'),
        (dict(adaptive_interval=False, long_distance='map'), 'map'),
        (dict(long_distance='window'), 'window'),
    ],
)
def test_published_types_have_the_layout_of_their_code(arguments, layout):
    from mmseg.registry import MODELS

    with torch.device('meta'):
        backbone = MODELS.build(dict(type='CrossFormer_S', **arguments))
    assert backbone.layers[0].blocks[1].attn.groups.layout == layout


@pytest.mark.slow
def test_mmpretrain_imports_without_torchvision(tmp_path):
    """Its registries build everything, only what needs torchvision says so, and no placeholder is left."""
    code = """
import sys, crossformer_mm
from mmpretrain.registry import MODELS, TRANSFORMS
model = MODELS.build(dict(
    type='ImageClassifier',
    backbone=dict(type='CrossFormer', arch='t', out_indices=(3,)),
    head=dict(type='CrossFormerClsHead', num_classes=5, in_channels=512),
))
assert TRANSFORMS.build(dict(type='ToPIL')), 'an ordinary transform'
assert not [name for name in sys.modules if name.startswith('torchvision')]
TRANSFORMS.build(dict(type='MAERandomResizedCrop', size=3))
"""
    done = subprocess.run([sys.executable, '-c', code], cwd=tmp_path, capture_output=True, text=True)
    expected = 'this part of MMPretrain needs MAERandomResizedCrop of torchvision, which is not installed'
    assert done.stderr.strip().endswith(f'ImportError: {expected}')


@pytest.mark.slow
def test_an_installed_torchvision_is_used(tmp_path):
    """Placeholders are for MMPretrain alone, and only if there is no real module."""
    (tmp_path / 'torchvision').mkdir()
    (tmp_path / 'torchvision' / '__init__.py').write_text('raise ImportError("the real torchvision")')
    code = 'import crossformer_mm.mmpretrain_parts'
    done = subprocess.run([sys.executable, '-c', code], cwd=tmp_path, capture_output=True, text=True)
    assert 'ImportError: the real torchvision' in done.stderr
