"""Exported files are run where neither PyTorch nor a toolbox is installed."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from exported_files import write_detector, write_segmentor
from without_torch import NEEDED, link_project, make_environment, run

from crossformer_mm.engine import cli
from crossformer_mm.engine.infer import infer, inference_parser

COMMAND = 'import crossformer_mm_command; raise SystemExit(crossformer_mm_command.main())'


@pytest.fixture(scope='module')
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return link_project(make_environment(tmp_path_factory.mktemp('without_torch') / 'packages', NEEDED))


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / 'images'
    folder.mkdir()
    for name, shape in {'a.png': (60, 80, 3), 'b.jpg': (90, 41, 3), 'thin.png': (2, 300, 3)}.items():
        cv2.imwrite(str(folder / name), np.random.default_rng(0).integers(0, 256, shape, np.uint8))
    (folder / 'text.png').write_text('no image')
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob('*.*[gn]')}


@pytest.mark.parametrize(
    ('write', 'count', 'more'),
    [
        (write_detector, 4, []),
        (write_segmentor, 7, []),
        pytest.param(write_detector, 4, ['--tiles', '32'], marks=pytest.mark.slow),
    ],
)
def test_results_are_the_same_with_and_without_torch(
    environment: Path, images: Path, tmp_path: Path, write, count: int, more: list[str]
) -> None:
    file = write(tmp_path / 'model.onnx', (48, 64), 2)
    words = ['--onnx', str(file), str(images), '--score-thr', '0', '--batch-size', '3', *more]
    done = run(environment, COMMAND, 'infer', *words, '--out', tmp_path / 'without')
    assert done.returncode == 1, done.stderr
    assert 'skipped' in done.stderr and 'Traceback' not in done.stderr
    assert cli.run(inference_parser(), infer, [*words, '--out', str(tmp_path / 'with')]) == 1
    results = contents(tmp_path / 'without')
    assert results == contents(tmp_path / 'with')
    assert len(results) == count, 'results.json, and pictures and label maps of three images'
    assert len(json.loads(results['results.json'])['images']) == 3


def test_what_needs_torch_says_so(environment: Path, images: Path) -> None:
    code = """
import contextlib, importlib.util, io
import crossformer_mm_command as command
import crossformer_mm
from crossformer_mm import deploy
assert importlib.util.find_spec('torch') is None and importlib.util.find_spec('mmengine') is None
assert crossformer_mm.__version__ and deploy.__path__
try:
    from crossformer_mm import CrossFormer
except ImportError as error:
    assert 'needs PyTorch, which is not installed: pip install torch' in str(error), error
else:
    raise AssertionError('imported')
for name in command.COMMANDS.keys() - {'doctor'}:
    words = ['--config', 'x', '--checkpoint', 'y', sys.argv[1]] if name == 'infer' else ['--help']
    with contextlib.redirect_stderr(io.StringIO()) as error:
        assert command.main([name, *words]) == 1, name
    missing = 'yaml' if name == 'convert-dataset' else 'PyTorch'
    message = f'error: crossformer {name}: needs {missing}, which is not installed; see docs/install.md'
    assert error.getvalue().startswith(message) and error.getvalue().count('\\n') == 1, error.getvalue()
"""
    done = run(environment, code, images)
    assert done.returncode == 0, done.stderr
    doctor = run(environment, COMMAND, 'doctor')
    assert doctor.returncode == 1
    assert "FAILED  torch: ModuleNotFoundError: No module named 'torch'" in doctor.stdout


def test_a_torch_that_is_broken_is_reported_as_it_is(environment: Path, tmp_path: Path) -> None:
    (tmp_path / 'torch').mkdir()
    (tmp_path / 'torch' / '__init__.py').write_text("raise OSError('libtorch_cpu.so: cannot open')")
    code = f'sys.path.insert(0, {str(tmp_path)!r}); import crossformer_mm'
    done = run(environment, code)
    assert done.returncode == 1
    assert done.stderr.endswith('OSError: libtorch_cpu.so: cannot open\n')
