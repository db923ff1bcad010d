"""The doctor in whole and in broken installations, which are made by putting fakes before the real ones."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from crossformer_mm.engine import doctor

TOOL = Path(__file__).parents[1] / 'tools' / 'doctor.py'


def consult(*folders: Path, words: Sequence[str | Path] = (TOOL,)) -> tuple[int, str]:
    """Exit status and output of the tool, with folders that Python looks into first."""
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
def test_a_whole_installation() -> None:
    status, said = consult()
    assert status == 0, said
    for part in ('nms and roi_align compute on cpu', 'mmseg.CrossFormer builds', 'float64 differ by'):
        assert part in said
    assert 'FAILED' not in said


def test_mmcv_without_operators(tmp_path: Path) -> None:
    module(tmp_path, 'mmcv', '__version__ = "2.1.0"')
    status, said = consult(tmp_path)
    assert status == 1
    assert "mmcv._ext: ModuleNotFoundError: No module named 'mmcv._ext'; mmcv has no compiled" in said
    assert 'FAILED  operators: ' in said
    assert 'ok      machine: ' in said  # to the end


def test_torch_and_mmengine_that_do_not_import(tmp_path: Path) -> None:
    module(tmp_path, 'torch', 'raise OSError("libcudart.so.12: cannot open shared object file")')
    module(tmp_path, 'mmengine', 'raise ImportError("broken\\nbadly")')
    status, said = consult(tmp_path)
    assert status == 1
    assert 'FAILED  torch: OSError: libcudart.so.12: cannot open shared object file; install it first' in said
    assert 'FAILED  imports: mmengine: ImportError: broken; uninstall it' in said
    assert 'FAILED  registries: ' in said


def test_the_command_works_where_the_package_does_not(tmp_path: Path) -> None:
    module(tmp_path, 'torch', 'raise OSError("libcudart.so.12: cannot open shared object file")')
    status, said = consult(tmp_path, words=['-m', 'crossformer_mm_command', 'doctor'])
    assert status == 1
    assert 'FAILED  torch: OSError: libcudart.so.12: cannot open shared object file; install it first' in said


def findings(check: str) -> list[tuple[str, str]]:
    return [(finding.mark, finding.found) for finding in doctor.CHECKS[check]()]


def test_both_families(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for family in doctor.FAMILIES.values():
        distribution(tmp_path, family[0], '2.3.0')
    monkeypatch.syspath_prepend(tmp_path)
    assert ('FAILED', 'both families are installed') in findings('family')


def test_versions_outside_the_ranges(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    distribution(tmp_path, 'torch', '1.13.1')
    monkeypatch.syspath_prepend(tmp_path)
    assert ('FAILED', 'torch 1.13.1 is outside >=2.6') in findings('package')


def test_one_toolbox_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    real = doctor.importlib.import_module

    def without_mmseg(name: str) -> object:
        if name == 'mmseg':
            raise ModuleNotFoundError("No module named 'mmseg'", name='mmseg')
        return real(name)

    monkeypatch.setattr(doctor.importlib, 'import_module', without_mmseg)
    marks = {found: mark for mark, found in findings('imports')}
    assert marks['mmseg is not installed'] == 'warning'
    assert 'FAILED' not in marks.values()


def test_operators_that_crash(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, 'OPERATORS', 'import os; os.abort()')
    [(mark, found)] = findings('operators')
    assert (mark, found) == ('FAILED', 'nms and roi_align on cpu: ended by SIGABRT')


def test_what_a_machine_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor.shutil, 'disk_usage', lambda path: doctor.shutil._ntuple_diskusage(9, 8, 1))
    monkeypatch.setattr(doctor.os, 'sched_getaffinity', lambda process: {0})
    monkeypatch.setattr(doctor.resource, 'getrlimit', lambda which: (256, 256))
    assert [mark for mark, _ in findings('machine')] == ['warning'] * 4
    assert all(finding.remedy for finding in doctor.check_machine())
