"""The command that exports a model."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import onnx
import pytest
import torch
from export_models import IMAGES, random_model
from mmengine.config import Config
from onnx import numpy_helper

from crossformer_mm.deploy.model import OnnxModel
from crossformer_mm.engine import cli
from crossformer_mm.engine.export import export, export_parser
from crossformer_mm.export import onnx_file
from crossformer_mm.utils.files import sha256_of

TOOL = Path(__file__).parents[2] / 'tools' / 'export.py'
META = {'dataset_meta': {'classes': ('sky', 'sea'), 'palette': [[1, 2, 3], [4, 5, 6]]}}


@pytest.fixture(scope='module')
def inputs(
    tmp_path_factory: pytest.TempPathFactory,
    narrow_segmentor: Callable[[str], Config],
    narrow_classifier: Callable[[str], Config],
) -> Path:
    """A folder with a segmentor and a classifier, each a config and a checkpoint, and with images."""
    folder = tmp_path_factory.mktemp('models')
    segmentor = narrow_segmentor('fpn_crossformer_s')
    segmentor.model.decode_head.num_classes = 2
    for name, cfg, meta in (
        ('segmentor', segmentor, META),
        ('classifier', narrow_classifier('crossformer_s_in1k'), {}),
    ):
        cfg.test_dataloader.dataset.data_root = str(folder / 'no data')
        cfg.dump(folder / f'{name}.py')
        torch.save({'state_dict': random_model(cfg).state_dict(), 'meta': meta}, folder / f'{name}.pth')
    (folder / 'images').mkdir()
    for i, image in enumerate(IMAGES):
        cv2.imwrite(str(folder / 'images' / f'{i}.png'), image)
        (folder / 'images' / f'{i}.json').write_text('{}')  # as labelling programs write it
    return folder


def words(inputs: Path, name: str, out: Path, *options: object) -> list[str]:
    given = [inputs / f'{name}.py', inputs / f'{name}.pth', out, '--images', inputs / 'images', *options]
    return [str(word) for word in given]


def run(*options: object) -> int:
    return cli.run(export_parser(), export, words(*options))


def test_a_segmentor_is_exported_with_its_classes(
    inputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / 'the sea.onnx'
    out.write_text('mine')
    assert run(inputs, 'segmentor', out, '--size', 32, 64, '--batch', 2) == 1
    assert 'exists; choose another name or allow overwriting' in capsys.readouterr().err
    assert run(inputs, 'segmentor', out, '--size', 32, 64, '--batch', 2, '--overwrite') == 0
    printed = capsys.readouterr().out
    assert 'share of pixels with another label: 0 (tolerance 0.001)\n' in printed
    assert printed.endswith(f"  crossformer infer --onnx '{out}' IMAGES runs it\n")
    file = OnnxModel(out)
    assert (file.task, file.size, file.batch) == ('semantic segmentation', (32, 64), 2)
    assert (file.classes, file.palette) == (['sky', 'sea'], [[1, 2, 3], [4, 5, 6]])
    assert file.preprocessing['resize'] == 'fit' and not file.ignore_exif
    assert file.origin == {
        'config': 'segmentor.py',
        'checkpoint': 'segmentor.pth',
        'sha256': sha256_of(inputs / 'segmentor.pth'),
        'precision': 'float32',
        'crossformer_mm': file.origin['crossformer_mm'],
        'torch': torch.__version__,
    }
    assert list(tmp_path.iterdir()) == [out]


def test_a_classifier_has_the_size_of_its_crop(inputs: Path, tmp_path: Path) -> None:
    out = tmp_path / 'classifier.onnx'
    assert run(inputs, 'classifier', out, '--dynamic-batch', '--half') == 0
    file = OnnxModel(out)
    assert (file.task, file.size, file.batch) == ('classification', (32, 32), None)
    assert file.origin['precision'] == 'float16'
    assert len(file.classes) == 1000 and 'tench' in file.classes[0]
    assert out.stat().st_size < (inputs / 'classifier.pth').stat().st_size * 0.6


@pytest.mark.slow
@pytest.mark.parametrize('lively', [True, False])
def test_a_detector_is_compared_on_the_objects_that_it_finds(
    inputs: Path,
    tmp_path: Path,
    narrow_config: Callable[[str], Config],
    capsys: pytest.CaptureFixture[str],
    lively: bool,
) -> None:
    cfg = narrow_config('mask_rcnn_crossformer_s')
    model = random_model(cfg)
    model.roi_head.bbox_head.fc_cls.weight.data *= 20 if lively else 0
    model.roi_head.bbox_head.fc_cls.bias.data *= 0
    cfg.dump(tmp_path / 'detector.py')
    torch.save({'state_dict': model.state_dict()}, tmp_path / 'detector.pth')
    given = words(inputs, 'segmentor', tmp_path / 'detector.onnx', '--size', 64, 64)
    given[:2] = [str(tmp_path / 'detector.py'), str(tmp_path / 'detector.pth')]
    assert cli.run(export_parser(), export, given) == 0
    assert OnnxModel(tmp_path / 'detector.onnx').task == 'instance segmentation'
    printed = capsys.readouterr().out
    assert ('warning: no object was found in these images' in printed) != lively
    assert (re.search(r'objects that PyTorch finds: [1-9]', printed) is not None) == lively


@pytest.mark.slow
def test_a_backbone_is_exported_from_any_checkpoint_of_it(
    inputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = torch.load(inputs / 'segmentor.pth')['state_dict']
    backbone = {name: value for name, value in state.items() if name.startswith('backbone.')}
    torch.save({'state_dict': backbone}, tmp_path / 'backbone.pth')
    given = words(inputs, 'segmentor', tmp_path / 'out.onnx', '--size', 32, 64, '--backbone')
    given[1] = str(tmp_path / 'backbone.pth')
    assert cli.run(export_parser(), export, given) == 0
    file = OnnxModel(tmp_path / 'out.onnx')
    assert (file.task, file.classes) == ('features', [])
    assert capsys.readouterr().out.endswith(' MB\n')  # crossformer infer cannot run it


def test_a_file_that_differs_is_not_kept(
    inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    trace = onnx_file.trace

    def damaged(*args: object) -> onnx.ModelProto:
        assert capsys.readouterr().out.endswith('exporting\n')  # it may take minutes
        proto = trace(*args)
        (weight,) = (w for w in proto.graph.initializer if w.name.endswith('head.fc.weight'))
        weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) * 1.1, weight.name))
        return proto

    monkeypatch.setattr(onnx_file, 'trace', damaged)
    assert run(inputs, 'classifier', tmp_path / 'out.onnx') == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert 'out.onnx: differs from PyTorch and is not kept: probabilities differ by at most' in line
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ('name', 'options', 'message'),
    [
        ('segmentor', [], '--size H W: is missing'),
        ('segmentor', ['--size', 64, 31], '--size 64 31: both must be at least 32'),
        ('segmentor', ['--size', 8192, 8193], 'at most'),
        ('classifier', ['--batch', 0], '--batch 0: must be at least 1'),
        ('classifier', ['--batch', 10**12], 'exporting: there is not enough memory; give a smaller --size'),
        ('classifier', ['--images', 'nowhere.png'], '--images nowhere.png: no such file'),
        ('classifier', ['--images', __file__], 'cannot be read as an image'),
        ('classifier', ['--images'], 'no data/val to compare the file on; give some with --images'),
        ('classifier', ['--cfg-options', 'test_dataloader.dataset.pipeline.1.type=Albu'], "'Albu'"),
        ('classifier', ['--cfg-options', 'model=None'], 'has no model and test pipeline'),
        (
            'segmentor',
            ['--size', 64, 64, '--cfg-options', 'model.test_cfg.mode=slide'],
            "model.test_cfg.mode is 'slide'",
        ),
    ],
)
def test_bad_options_are_one_line_and_no_file(
    inputs: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    name: str,
    options: list[object],
    message: str,
) -> None:
    given = words(inputs, name, tmp_path / 'out.onnx', *options)
    if options == ['--images']:
        given = given[:3]
    assert cli.run(export_parser(), export, given) == 1
    assert message in capsys.readouterr().err.splitlines()[-1]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize('out', ['out.pth', 'nowhere/out.onnx', 'segmentor.onnx'])
def test_bad_places_are_one_line(
    inputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], out: str
) -> None:
    weights = tmp_path / 'segmentor.onnx'
    weights.hardlink_to(inputs / 'segmentor.pth')
    given = words(inputs, 'segmentor', tmp_path / out, '--size', 64, 64, '--overwrite')
    assert cli.run(export_parser(), export, given) == 1
    assert str(tmp_path / out) in capsys.readouterr().err.splitlines()[-1]
    assert weights.stat().st_size == (inputs / 'segmentor.pth').stat().st_size


@pytest.mark.parametrize('missing', [('onnx',), ('onnxruntime',), ('onnx', 'onnxruntime')])
def test_missing_packages_are_one_line(
    inputs: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    missing: tuple[str, ...],
) -> None:
    for name in missing:
        monkeypatch.setitem(sys.modules, name, None)
    assert run(inputs, 'classifier', tmp_path / 'out.onnx') == 1
    names = ' '.join(missing)
    message = f'error: {names}: not installed, which export needs: pip install {names}\n'
    assert capsys.readouterr().err == message


@pytest.mark.slow
@pytest.mark.parametrize(('number', 'status'), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_nothing_is_left_when_it_is_interrupted(
    inputs: Path, tmp_path: Path, number: int, status: int
) -> None:
    command = [sys.executable, TOOL, *words(inputs, 'segmentor', tmp_path / 'out.onnx', '--size', 512, 512)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL) as process:
        while not list(tmp_path.iterdir()):
            assert process.poll() is None
            time.sleep(0.01)
        os.kill(process.pid, number)
        lines = process.stderr.read().decode().splitlines()
        assert process.wait() == status
    assert lines[-1] in ('interrupted', 'terminated')
    assert list(tmp_path.iterdir()) == []
