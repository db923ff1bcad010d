"""The doctor in intact and in broken installations; fake modules shadow the real ones."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from crossformer_mm.engine import doctor

TOOL = Path(__file__).parents[2] / 'tools' / 'doctor.py'


def consult(*folders: Path, words: Sequence[str | Path] = (TOOL,)) -> tuple[int, str]:
    """Exit status and output of the tool, with folders at the front of Python's path."""
    environment = {**os.environ, 'PYTHONPATH': os.pathsep.join(map(str, folders))}
    ended = subprocess.run(
        [sys.executable, *words], capture_output=True, text=True, env=environment, timeout=300
    )
    assert 'Traceback' not in ended.stdout + ended.stderr
    return ended.returncode, ended.stdout


def module(folder: Path, name: str, text: str) -> None:
    path = folder / name / '__init__.py'
    path.parent.mkdir(parents=True)
    path.write_text(text)


def distribution(folder: Path, name: str, version: str) -> None:
    info = folder / f'{name.replace("-", "_")}-{version}.dist-info'
    info.mkdir(parents=True)
    (info / 'METADATA').write_text(f'Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n')


@pytest.mark.slow
def test_a_working_installation() -> None:
    status, output = consult()
    assert status == 0, output
    for part in ('nms and roi_align work on cpu', 'mmseg.CrossFormer builds', 'float64 differ by'):
        assert part in output
    assert 'FAILED' not in output and 'OneDL' not in output


@pytest.mark.slow
def test_mmcv_without_operators(tmp_path: Path) -> None:
    module(tmp_path, 'mmcv', '__version__ = "2.1.0"')
    status, output = consult(tmp_path)
    assert status == 1
    assert "mmcv._ext: ModuleNotFoundError: No module named 'mmcv._ext'; compile mmcv" in output
    assert 'FAILED  operators: ' in output
    assert ' machine: ' in output  # every check ran


@pytest.mark.parametrize('words', [[TOOL], ['-m', 'crossformer_mm_command', 'doctor']])
def test_torch_and_mmengine_that_do_not_import(words: Sequence[str | Path], tmp_path: Path) -> None:
    module(tmp_path, 'torch', 'raise OSError("libcudart.so.12: cannot open shared object file")')
    module(tmp_path, 'mmengine', 'raise ImportError("broken\\nbadly")')
    status, output = consult(tmp_path, words=words)
    assert status == 1
    assert 'FAILED  torch: OSError: libcudart.so.12: cannot open shared object file; ' in output
    assert 'FAILED  imports: mmengine: ImportError: broken; uninstall it' in output
    assert 'FAILED  backbone: ' in output


def failures(check: str) -> str:
    return '\n'.join(found for mark, found in doctor.findings(check) if mark == doctor.FAILED)


def test_both_families_and_versions_outside_the_ranges(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for family in doctor.FAMILIES.values():
        distribution(tmp_path, family[0], '1.3.0')
    distribution(tmp_path, 'torch', '1.13.1')
    monkeypatch.syspath_prepend(tmp_path)
    found = failures('packages')
    assert 'both families of mmcv are installed' in found
    assert 'torch 1.13.1 is outside the tested range' in found
    assert 'mmcv 1.3.0 is outside the tested range' in found


@pytest.mark.slow
def test_one_toolbox_is_enough(tmp_path: Path) -> None:
    module(tmp_path, 'mmseg', 'raise ModuleNotFoundError("No module named mmseg", name="mmseg")')
    code = f'import runpy; print(*runpy.run_path({doctor.__file__!r})["check_imports"](), sep="\\n")'
    _, output = consult(tmp_path, words=['-c', code])
    assert "('warning', 'mmseg is not installed; install it for segmentation')" in output
    assert 'FAILED' not in output


def test_operators_that_crash(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, 'OPERATORS', 'import os; os.abort()')
    assert failures('operators').startswith('nms and roi_align on cpu: SIGABRT; ')
