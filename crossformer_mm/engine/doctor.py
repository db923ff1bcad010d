"""Check an installation: one line per finding, with the remedy if something does not work.

``tools/doctor.py`` and ``crossformer doctor`` run this file by its path, because the package cannot be
imported if the stack is broken. Its module-level imports are therefore only from the standard library.
"""

from __future__ import annotations  # so that an old Python gets as far as reporting its version

import importlib
import os
import resource
import shutil
import signal
import subprocess
import sys
import warnings
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

OK, WARNING, FAILED = 'ok', 'warning', 'FAILED'
FAMILIES = {
    'onedl': (
        *('onedl-mmcv', 'onedl-mmengine'),
        *('onedl-mmdetection', 'onedl-mmsegmentation', 'onedl-mmpretrain'),
    ),
    'openmmlab': (
        *('mmcv', 'mmcv-full', 'mmcv-lite', 'mmengine', 'mmengine-lite'),
        *('mmdet', 'mmsegmentation', 'mmpretrain'),
    ),
}
TOOLBOXES = {'mmdet': 'detection', 'mmseg': 'segmentation', 'mmpretrain': 'classification'}
REINSTALL = 'uninstall it and install one family as docs/install.md says'
RECOMPILE = 'compile mmcv for this torch: tools/install_mmcv.sh with the version in requirements/'
OPERATORS = """
import sys, torch
from mmcv.ops import nms, roi_align
device = sys.argv[1]
boxes = torch.tensor([[0., 0., 8., 8.], [0., 0., 8., 7.], [16., 16., 24., 24.]], device=device)
_, kept = nms(boxes, torch.tensor([.9, .8, .7], device=device), iou_threshold=0.5)
assert kept.tolist() == [0, 2], f'nms keeps {kept.tolist()} instead of [0, 2]'
rois = torch.tensor([[0., 0., 0., 8., 8.]], device=device)
pooled = roi_align(torch.full((1, 1, 16, 16), 3., device=device), rois, (2, 2))
assert torch.allclose(pooled, torch.full_like(pooled, 3)), 'roi_align does not keep a constant'
"""
GB = 2**30

Findings = Iterator[tuple[str, str]]  # OK, WARNING or FAILED, and what was found


def main() -> int:
    """Print every finding and return the exit status: 1 if a check failed, 0 otherwise."""
    failed = 0
    for check in CHECKS:
        for mark, found in findings(check):
            line = f'{mark:<8}{check}: {" ".join(found.split())}'
            print(line, flush=True)
            failed += mark == FAILED
    print(f'{failed} failed' if failed else 'all checks passed')
    return min(failed, 1)


def findings(check: str) -> Findings:
    """The findings of a check; an exception becomes the last one."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            yield from CHECKS[check]()
    except Exception as error:  # a broken installation can raise anything
        yield FAILED, f'{first_line(error)}; fix the failures above, or see docs/install.md'


def first_line(error: Exception) -> str:
    """The type and the first line of an error."""
    return f'{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}'


def version_of(distribution: str) -> str | None:
    """The installed version of a distribution."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def check_python() -> Findings:
    """Check Python, and the C++ compiler, which is needed only to compile mmcv."""
    mark, remedy = (OK, '') if sys.version_info >= (3, 10) else (FAILED, '; install Python 3.10 or newer')
    yield mark, f'{sys.version.split()[0]} at {sys.executable}{remedy}'
    compiler = os.environ.get('CXX', 'c++').split()[0]
    if shutil.which(compiler) is None:
        remedy = 'to compile mmcv, install one (apt-get install build-essential) or name it in CXX'
        yield WARNING, f'no C++ compiler ({compiler}); {remedy}'


def check_packages() -> Findings:
    """Check that exactly one family of mmcv is installed, and all versions are in the required ranges."""
    from packaging.requirements import Requirement

    installed = {
        family: [f'{name} {version_of(name)}' for name in names if version_of(name)]
        for family, names in FAMILIES.items()
    }
    families = [family for family, names in installed.items() if names]
    for family in families:
        yield OK, f'{family}: {", ".join(installed[family])}'
    if len(families) > 1:
        yield (
            FAILED,
            'both families of mmcv are installed, over each other; uninstall all of them, then install one',
        )
    if not families:
        yield (
            FAILED,
            "neither family of mmcv is installed; run make setup in a clone, or pip install 'WHEEL[onedl]'",
        )
    if version_of('crossformer-mm') is None:
        yield FAILED, 'crossformer-mm is not installed; pip install --no-build-isolation --no-deps -e .'
        return
    for requirement in map(Requirement, metadata.requires('crossformer-mm') or []):
        version, marker = version_of(requirement.name), requirement.marker
        if marker and not any(marker.evaluate({'extra': family}) for family in families):
            continue
        if version is None and marker is None:
            yield FAILED, f"{requirement.name} is not installed; pip install '{requirement}'"
        elif version and not requirement.specifier.contains(version, prereleases=True):
            wanted = f'{requirement.name}{requirement.specifier}'
            yield FAILED, f"{requirement.name} {version} is outside the tested range; pip install '{wanted}'"


def check_torch() -> Findings:
    """Check that torch imports, and uses the GPU if there is one."""
    import torch

    cuda = torch.version.cuda
    yield OK, f'{torch.__version__}, {f"for CUDA {cuda}" if cuda else "for CPUs only"}'
    for index in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(index)
        yield OK, f'{torch.cuda.get_device_name(index)}, {free / GB:.1f} of {total / GB:.1f} GB free'
    if not torch.cuda.is_available() and shutil.which('nvidia-smi'):
        remedy = 'update the driver' if cuda else 'install the CUDA build of torch, and compile mmcv again'
        yield WARNING, f'this torch cannot use the GPU; {remedy}'


def check_imports() -> Findings:
    """Check that each part of the stack imports; one toolbox is enough."""
    for name in ('mmengine', 'mmcv', 'mmcv._ext', *TOOLBOXES):
        try:
            importlib.import_module(name)
        except Exception as error:  # the toolboxes assert versions
            if name in TOOLBOXES and getattr(error, 'name', None) == name:
                yield WARNING, f'{name} is not installed; install it for {TOOLBOXES[name]}'
            else:
                remedy = RECOMPILE if name == 'mmcv._ext' else REINSTALL
                yield FAILED, f'{name}: {first_line(error)}; {remedy}'
        else:
            yield OK, f'{name} imports'


def check_operators() -> Findings:
    """Check mmcv's operators, in a separate process because they can crash it."""
    import torch

    for device in ('cpu', 'cuda') if torch.cuda.is_available() else ('cpu',):
        command = [sys.executable, '-c', OPERATORS, device]
        done = subprocess.run(command, capture_output=True, text=True, timeout=180)
        if done.returncode == 0:
            yield OK, f'nms and roi_align work on {device}'
            continue
        killed = done.returncode < 0
        reason = signal.Signals(-done.returncode).name if killed else done.stderr.strip().rpartition('\n')[2]
        yield FAILED, f'nms and roi_align on {device}: {reason}; {RECOMPILE}'


def check_backbone() -> Findings:
    """Check that configs find the backbone, and that it computes the same in float64 and on the GPU."""
    import torch
    from mmengine.registry import MODELS

    quiet_imports = importlib.import_module('crossformer_mm.engine.config').quiet_imports
    narrow = {'embed_dims': 32, 'depths': (1, 1, 2, 1), 'num_heads': (1, 2, 4, 8)}
    for name in ('CrossFormer', *(f'{toolbox}.CrossFormer' for toolbox in TOOLBOXES)):
        with quiet_imports():
            model = MODELS.build({'type': name, 'arch': narrow}).eval()
        yield OK, f'{name} builds'
    image = torch.rand(1, 3, 75, 106)
    others = {'float64': ('cpu', torch.float64)}
    if torch.cuda.is_available():
        others['the GPU'] = ('cuda', torch.float32)
    with torch.no_grad():
        expected = model(image)
        for name, target in others.items():
            maps = model.to(*target)(image.to(*target))
            pairs = zip(expected, maps, strict=True)
            difference = max((a.double() - b.double().cpu()).abs().max().item() for a, b in pairs)
            mark, remedy = (OK, '') if difference < 1e-2 else (FAILED, '; install the torch of requirements/')
            yield mark, f'float32 on the CPU and {name} differ by {difference:.1e}{remedy}'


def check_machine() -> Findings:
    """Check that disk, shared memory and the limit of open files are enough for training."""
    for folder, wanted, remedy in (
        (Path.cwd(), 10, 'a checkpoint takes up to 1 GB'),
        (Path('/dev/shm'), 1, 'docker run --shm-size=8g, or train with num_workers=0'),
    ):
        if folder.is_dir():
            free = shutil.disk_usage(folder).free / GB
            found = f'{free:.1f} GB free in {folder}'
            yield (OK, found) if free >= wanted else (WARNING, f'{found}; {remedy}')
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    enough = files >= 1024 or files == resource.RLIM_INFINITY
    yield (OK, f'{files} open files') if enough else (WARNING, f'{files} open files; ulimit -n 4096')


CHECKS = {
    'python': check_python,
    'packages': check_packages,
    'torch': check_torch,
    'imports': check_imports,
    'operators': check_operators,
    'backbone': check_backbone,
    'machine': check_machine,
}
