"""Files of 8-bit integers: what is quantised, from which images, and what is refused."""

from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
import torch
from export_models import IMAGES, random_model
from mmengine.config import Config
from mmengine.model import BaseModel
from onnx import numpy_helper

from crossformer_mm.deploy.model import OnnxModel
from crossformer_mm.engine import cli
from crossformer_mm.engine.export import export, export_parser
from crossformer_mm.export.graphs import graph_of
from crossformer_mm.export.int8 import quantise
from crossformer_mm.export.onnx_file import OPSET, trace, write_onnx
from crossformer_mm.export.parity import TOLERANCES, Comparison, compare

SIZE = (61, 50)
HOW = {'resize': 'fit', 'interpolation': 'bilinear', 'library': 'opencv', 'ignore_exif': False}


@pytest.fixture(scope='module')
def classifier(narrow_classifier: Callable[[str], Config]) -> Config:
    return narrow_classifier('crossformer_s_in1k')


@pytest.fixture(scope='module')
def model(classifier: Config) -> BaseModel:
    return random_model(classifier)


@pytest.fixture(scope='module')
def backbone(model: BaseModel) -> onnx.ModelProto:
    """A narrow backbone in float32, for any number of images."""
    return trace(graph_of(model, backbone_only=True), SIZE, None)


def written(folder: Path, images: Sequence[np.ndarray]) -> list[Path]:
    """Write images to files."""
    paths = [folder / f'{i}.png' for i in range(len(images))]
    for path, image in zip(paths, images, strict=True):
        cv2.imwrite(str(path), image)
    return paths


def compared(proto: onnx.ModelProto, model: BaseModel, path: Path) -> Comparison:
    metadata = {'task': 'features', 'classes': [], 'palette': [], 'preprocessing': HOW, 'origin': {}}
    write_onnx(proto, metadata, path)
    return compare(OnnxModel(path, threads=1), model, IMAGES, TOLERANCES['int8'])


def test_products_with_weights_are_quantised(
    model: BaseModel, backbone: onnx.ModelProto, tmp_path: Path
) -> None:
    before = backbone.SerializeToString()
    proto = quantise(backbone, written(tmp_path, IMAGES), HOW)
    assert backbone.SerializeToString() == before
    assert [(opset.domain, opset.version) for opset in proto.opset_import] == [('', OPSET)]
    weights = {w.name: numpy_helper.to_array(w) for w in proto.graph.initializer}
    integers = {
        node.input[0]: [weights[name] for name in node.input]
        for node in proto.graph.node
        if node.op_type == 'DequantizeLinear' and weights.get(node.input[0], np.empty(0)).dtype == np.int8
    }
    layers = [
        part for part in model.backbone.modules() if isinstance(part, torch.nn.Conv2d | torch.nn.Linear)
    ]
    encodings = [part for name, part in model.backbone.named_modules() if '.pos' in name and part in layers]
    first = model.backbone.patch_embed.projs
    assert encodings
    assert len(integers) == len(layers) - len(encodings) - len(first)
    for values, scales, _ in integers.values():
        assert abs(values.astype(int)).max() <= 64, '7 bits'
        assert scales.size in values.shape, 'one for each output channel'
    offsets = {node.input[2] for node in proto.graph.node if node.op_type == 'QuantizeLinear'}
    assert offsets and not any(weights[name].any() for name in offsets)
    (difference,) = compared(proto, model, tmp_path / 'model.onnx').differences
    assert 1e-3 < difference.value < 0.1, difference


def test_ranges_are_those_of_the_images(model: BaseModel, backbone: onnx.ModelProto, tmp_path: Path) -> None:
    flat = [np.full((64, 64, 3), 128, np.uint8)]
    (difference,) = compared(
        quantise(backbone, written(tmp_path, flat), HOW), model, tmp_path / 'model.onnx'
    ).differences
    assert difference.value > 0.15


@pytest.mark.slow
def test_the_command_quantises(
    model: BaseModel, classifier: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    classifier.dump(tmp_path / 'narrow.py')
    torch.save({'state_dict': model.state_dict()}, tmp_path / 'model.pth')
    images = tmp_path / 'images'
    images.mkdir()
    written(images, IMAGES)
    out = tmp_path / 'model.onnx'

    def run(*calibration: str | Path) -> int:
        words = [tmp_path / 'narrow.py', tmp_path / 'model.pth', out, '--images', images]
        return cli.run(export_parser(), export, list(map(str, [*words, '--int8', *calibration])))

    (tmp_path / 'text.png').write_text('no image')
    for name, reason in (('nowhere.png', 'no such file'), ('text.png', 'cannot be read as an image')):
        assert run(tmp_path / name) == 1
        assert f'--int8 {tmp_path / name}: {reason}' in capsys.readouterr().err.splitlines()[-1]
        assert not out.exists()
    assert run(images) == 0
    printed = capsys.readouterr().out
    assert 'warning: --int8: 3 images are few' in printed
    assert 'quantising on 3 images' in printed and '(tolerance 0.5)' in printed
    assert f'crossformer test {tmp_path / "narrow.py"} {out} measures what integers cost\n' in printed
    file = OnnxModel(out)
    assert file.origin['precision'] == 'int8' and len(file.classes) == 1000
    assert out.stat().st_size < (tmp_path / 'model.pth').stat().st_size / 2
