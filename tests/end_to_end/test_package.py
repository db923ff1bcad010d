"""The installed package: its requirements, and that a wheel works without the clone."""

import ast
import os
import runpy
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
import setuptools

from crossformer_mm.engine.backends import SERVICES

ROOT = Path(__file__).parents[2]
SOURCES = ('setup.py', 'pyproject.toml', 'MANIFEST.in', 'README.md', 'LICENSE', 'model-index.yml')
DISTRIBUTIONS = {'cv2': 'opencv-python', 'PIL': 'pillow', 'yaml': 'pyyaml'}  # where their names differ
FAMILY = {'mmcv', 'mmengine', 'mmdet', 'mmseg', 'mmpretrain'}  # which an extra brings


def imported(file: Path) -> set[str]:
    """The packages that a file imports, anywhere in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text(encoding='utf-8'))):
        if isinstance(node, ast.Import):
            found.update(alias.name.partition('.')[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found.add(node.module.partition('.')[0])
    return found


def test_setup_names_what_is_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    told: dict[str, Any] = {}
    monkeypatch.setattr(setuptools, 'setup', told.update)
    runpy.run_path(str(ROOT / 'setup.py'))
    required = [*told['install_requires'], *told['extras_require']['export']]
    asked = {requirement.partition('>')[0] for requirement in required}
    files = [*(ROOT / 'crossformer_mm').rglob('*.py'), *(ROOT / 'configs').rglob('*.py')]
    used = set().union(*map(imported, files)) - {*sys.stdlib_module_names} - FAMILY - {'crossformer_mm'}
    used -= {*SERVICES}  # of --log, which says how to install the one that it needs
    assert {DISTRIBUTIONS.get(name, name) for name in used} == asked


@pytest.fixture(scope='module')
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel that the source distribution builds."""
    folder = tmp_path_factory.mktemp('build')
    for name in SOURCES:
        shutil.copy(ROOT / name, folder)
    shutil.copy(ROOT / 'crossformer_mm_command.py', folder)
    for name in ('configs', 'crossformer_mm'):
        shutil.copytree(ROOT / name, folder / name)
    build(folder, 'sdist')
    shutil.unpack_archive(next(folder.glob('*.tar.gz')), folder)
    (unpacked,) = folder.glob('crossformer_mm-*/')
    build(unpacked, 'wheel')
    return next(unpacked.glob('*.whl'))


def build(folder: Path, what: str) -> None:
    command = [sys.executable, '-c', f'from setuptools import build_meta; build_meta.build_{what}(".")']
    subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)


@pytest.mark.slow
def test_wheel_holds_the_configs_and_no_more(wheel: Path) -> None:
    files = {name for name in zipfile.ZipFile(wheel).namelist() if '.dist-info/' not in name}
    inside = {f'crossformer_mm/.mim/{path.relative_to(ROOT)}' for path in ROOT.glob('configs/**/*.py')}
    modules = {str(path.relative_to(ROOT)) for path in ROOT.glob('crossformer_mm/**/*.py')}
    assert files == inside | modules | {'crossformer_mm/.mim/model-index.yml', 'crossformer_mm_command.py'}


@pytest.mark.slow
def test_wheel_trains_without_the_clone(wheel: Path, coco_root: Path, tmp_path: Path) -> None:
    """In a separate environment, with the packages of this one, and the project from the wheel."""
    folder, environment = tmp_path / 'empty', tmp_path / 'environment'
    folder.mkdir()
    subprocess.run([sys.executable, '-m', 'venv', '--without-pip', environment], check=True)
    python = environment / 'bin' / 'python'
    site = next(environment.glob('lib/python*/site-packages'))
    borrowed = [path for path in sys.path if path.endswith('-packages')]
    (site / 'borrowed.pth').write_text('\n'.join(borrowed))
    install = ['install', '--quiet', '--no-index', '--no-deps', '--ignore-installed', wheel]
    subprocess.run([sys.executable, '-m', 'pip', '--python', python, *install], check=True)

    clean = {name: value for name, value in os.environ.items() if name != 'PYTHONPATH'}

    def crossformer(*words: object) -> str:
        command = [environment / 'bin' / 'crossformer', *map(str, words)]
        done = subprocess.run(command, cwd=folder, env=clean, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        return done.stdout

    path = Path(crossformer('configs', '--path', 'demo_mask_rcnn').strip())
    assert path.is_relative_to(site)
    crossformer('configs', '--copy', 'demo_mask_rcnn')
    for config in ('demo_mask_rcnn', 'demo_mask_rcnn.py'):
        options = ['--data-root', coco_root, '--batch-size', 3, '--work-dir', f'work/{Path(config).suffix}']
        crossformer('train', config, *options, '--cfg-options', 'train_cfg.max_epochs=1')  # two steps
    assert len([*folder.glob('work/**/epoch_1.pth')]) == 2
