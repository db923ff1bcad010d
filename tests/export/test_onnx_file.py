"""Exported files compute what the toolboxes do, at one size, for every kind of model but detectors."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from export_models import IMAGES, exported, random_model
from mmengine.config import Config
from mmengine.model import BaseModel

from crossformer_mm.deploy.prepare import prepare
from crossformer_mm.export.graphs import graph_of
from crossformer_mm.export.onnx_file import trace
from crossformer_mm.export.parity import TOLERANCES, compare
from crossformer_mm.export.precision import in_float16
from crossformer_mm.utils.errors import UserError

SIZE = (61, 50)  # no multiple of any stride, group or interval


@pytest.fixture(scope='module')
def models(
    narrow_segmentor: Callable[[str], Config], narrow_classifier: Callable[[str], Config]
) -> dict[str, BaseModel]:
    """Narrow models of each kind."""
    linear = narrow_classifier('crossformer_s_in1k')
    linear.model.neck = dict(type='GlobalAveragePooling')
    linear.model.head.type = 'LinearClsHead'
    binary = narrow_segmentor('fpn_crossformer_pp_s')
    binary.model.decode_head.update(num_classes=2, out_channels=1, threshold=0.5)
    configs = {
        'fpn': narrow_segmentor('fpn_crossformer_s'),
        'upernet': narrow_segmentor('upernet_crossformer_s'),
        'binary': binary,
        'classifier': narrow_classifier('crossformer_pp_s_in1k'),
        'linear': linear,
    }
    return {name: random_model(cfg) for name, cfg in configs.items()}


@pytest.mark.parametrize(
    'kind',
    [
        'upernet',
        'classifier',
        'backbone',
        *(pytest.param(kind, marks=pytest.mark.slow) for kind in ('fpn', 'binary', 'linear')),
    ],
)
def test_a_file_agrees_with_the_toolbox(models: dict[str, BaseModel], tmp_path: Path, kind: str) -> None:
    model = models['binary' if kind == 'backbone' else kind]
    how = 'stretch' if kind in ('classifier', 'linear') else 'fit'
    file = exported(model, tmp_path / 'model.onnx', SIZE, how, backbone=kind == 'backbone')
    comparison = compare(file, model, IMAGES, TOLERANCES['float32'])
    assert all(difference.is_accepted for difference in comparison.differences), comparison
    assert (file.classes, file.palette, file.size, file.batch) == (['a class'], [[1, 2, 3]], SIZE, 1)
    proto = onnx.load(tmp_path / 'model.onnx')
    assert [(opset.domain, opset.version) for opset in proto.opset_import] == [('', 17)]
    assert {node.domain for node in proto.graph.node} == {''}


@pytest.mark.parametrize(
    'kind', ['upernet', *(pytest.param(kind, marks=pytest.mark.slow) for kind in ('classifier', 'backbone'))]
)
def test_float16_is_half_as_large_and_close(models: dict[str, BaseModel], tmp_path: Path, kind: str) -> None:
    model = models['upernet' if kind == 'backbone' else kind]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    how = 'stretch' if kind == 'classifier' else 'fit'
    file = exported(in_float16(model), tmp_path / 'half.onnx', SIZE, how, backbone=kind == 'backbone')
    comparison = compare(file, model, IMAGES, TOLERANCES['float16'])
    assert all(difference.is_accepted for difference in comparison.differences), comparison
    assert all(value.equal(before[name]) for name, value in model.state_dict().items())
    weights = sum(value.numel() for value in model.backbone.parameters())
    if kind == 'upernet':
        weights += sum(value.numel() for value in model.decode_head.parameters())
    assert 2 * weights <= (tmp_path / 'half.onnx').stat().st_size < 3 * weights


def test_a_dynamic_batch_has_the_outputs_of_its_images(models: dict[str, BaseModel], tmp_path: Path) -> None:
    file = exported(models['upernet'], tmp_path / 'model.onnx', SIZE, batch=None)
    assert file.batch is None
    images, sizes = zip(*(prepare(image, file.size, file.preprocessing) for image in IMAGES), strict=True)
    together = file.run(np.stack(images), np.array(sizes))['labels']
    for i, (image, size) in enumerate(zip(images, sizes, strict=True)):
        (alone,) = file.run(image[None], np.array([size]))['labels']
        assert (alone == together[i]).mean() > 0.999
    assert (together.shape, together.dtype) == ((len(IMAGES), *SIZE), np.uint8)
    assert (together[0] != together[1]).any()


def test_a_model_that_is_too_large_is_one_line(
    models: dict[str, BaseModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr('crossformer_mm.export.onnx_file.LARGEST', 1 << 20)
    with pytest.raises(UserError, match=r'--size 61 50: the model needs more than the 2 GB'):
        trace(graph_of(models['linear']), SIZE)
