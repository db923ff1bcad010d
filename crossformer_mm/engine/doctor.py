"""Look at an installation and say, a line a check, what works and what to do where it does not.

``tools/doctor.py`` and ``crossformer doctor`` run this file by itself: where the stack is broken, the package
does not import. So this module imports nothing at its top but Python's own.
"""

from __future__ import annotations  # an old Python is to be told so, not to stumble here

import importlib
import importlib.metadata
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

OK, WARNING, FAILED = 'ok', 'warning', 'FAILED'
FAMILIES = {
    'onedl': ('onedl-mmcv', 'onedl-mmengine', 'onedl-mmdetection', 'onedl-mmsegmentation'),
    'openmmlab': (
        *('mmcv', 'mmcv-full', 'mmcv-lite', 'mmengine', 'mmengine-lite'),
        *('mmdet', 'mmsegmentation'),
    ),
}
TOOLBOXES = ('mmdet', 'mmseg')
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
_REINSTALL = 'uninstall it and install one family as docs/install.md says'
_GB = 2**30


class Finding(NamedTuple):
    """The outcome of a check."""

    mark: str
    found: str
    remedy: str = ''


def main() -> int:
    """Print every finding and return the exit status: 1 if a check failed, 0 otherwise."""
    failed = 0
    for name, finding in examine():
        remedy = f'; {finding.remedy}' if finding.remedy else ''
        line = ' '.join(f'{finding.mark:<8}{name}: {finding.found}{remedy}'.split('\n'))
        print(line.encode(errors='replace').decode(), flush=True)
        failed += finding.mark == FAILED
    print(f'{failed} failed' if failed else 'all that is needed works')
    return min(failed, 1)


def examine() -> Iterator[tuple[str, Finding]]:
    """Run all checks.

    Yields:
        The name of a check and a finding of it; what a check raises is a finding too.
    """
    for name, check in CHECKS.items():
        try:
            with warnings.catch_warnings():
                warnings.simplefilter('ignore')
                for finding in check():
                    yield name, finding
        except Exception as error:  # a broken installation raises anything
            yield name, Finding(FAILED, _one_line(error), REMEDIES.get(name, ''))


def _one_line(error: BaseException) -> str:
    return f'{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}'


def _versions() -> dict[str, str]:
    """The installed distributions by their names in lower case."""
    found = {}
    for distribution in importlib.metadata.distributions():
        name = distribution.metadata['Name']
        if name:
            found.setdefault(name.lower().replace('_', '-'), distribution.version)
    return found


def check_python() -> Iterator[Finding]:
    """Whether this Python is new enough."""
    version = sys.version.split()[0]
    if sys.version_info < (3, 10):  # noqa: UP036
        yield Finding(FAILED, f'{version} at {sys.executable}', 'install Python 3.10 or newer')
    else:
        yield Finding(OK, f'{version} at {sys.executable}')


def check_compiler() -> Iterator[Finding]:
    """Whether mmcv could be compiled here; what is compiled already runs without."""
    command = os.environ.get('CXX', 'c++').split()
    if shutil.which(command[0]) is None:
        remedy = (
            'to compile mmcv, install one (Debian/Ubuntu: apt-get install build-essential) or name it in CXX'
        )
        yield Finding(WARNING, f'no C++ compiler ({" ".join(command)})', remedy)
        return
    said = subprocess.run([*command, '--version'], capture_output=True, text=True, timeout=30)
    yield Finding(OK, (said.stdout or said.stderr).partition('\n')[0])


def check_package() -> Iterator[Finding]:
    """Whether this project is installed, and torch and its like are as it asks."""
    versions = _versions()
    if 'crossformer-mm' not in versions:
        yield Finding(
            FAILED, 'crossformer-mm is not installed', 'pip install --no-build-isolation --no-deps -e .'
        )
        return
    yield Finding(OK, f'crossformer-mm {versions["crossformer-mm"]}')
    yield from _outside_ranges(versions, extra='')


def _outside_ranges(versions: dict[str, str], extra: str) -> Iterator[Finding]:
    """The distributions whose versions are not what the project asks for, by itself or in an extra."""
    from packaging.requirements import Requirement

    for line in importlib.metadata.requires('crossformer-mm') or []:
        asked = Requirement(line)
        by_itself = asked.marker is None or asked.marker.evaluate({'extra': ''})
        if by_itself != (not extra) or (asked.marker and not asked.marker.evaluate({'extra': extra})):
            continue
        version = versions.get(asked.name.lower())
        wanted = f'{asked.name}{asked.specifier}'
        if version is None and not extra:
            yield Finding(FAILED, f'{asked.name} is not installed', f"pip install '{wanted}'")
        elif version and not asked.specifier.contains(version, prereleases=True):
            yield Finding(
                FAILED, f'{asked.name} {version} is outside {asked.specifier}', f"pip install '{wanted}'"
            )


def check_torch() -> Iterator[Finding]:
    """Whether torch imports, and its CUDA fits the driver and the compiler."""
    import torch

    cuda = torch.version.cuda
    yield Finding(OK, f'{torch.__version__}, ' + (f'for CUDA {cuda}' if cuda else 'for CPUs alone'))
    driver = _said_by(['nvidia-smi'], r'CUDA Version: ([\d.]+)')
    if driver and not cuda:
        remedy = 'to use it, install the CUDA build of torch and compile mmcv anew'
        yield Finding(WARNING, 'a GPU is here, and this torch cannot use it', remedy)
    elif driver and not torch.cuda.is_available():
        remedy = 'update the driver, or install a torch for its CUDA'
        yield Finding(FAILED, f'the driver is for CUDA {driver}, torch for {cuda}, and sees no GPU', remedy)
    toolkit = _said_by(['nvcc', '--version'], r'release ([\d.]+)')
    if cuda and toolkit and toolkit.partition('.')[0] != cuda.partition('.')[0]:
        remedy = "to compile mmcv, put the toolkit of torch's CUDA on PATH and into CUDA_HOME"
        yield Finding(WARNING, f'nvcc is of CUDA {toolkit}, torch of {cuda}', remedy)
    for number in range(torch.cuda.device_count() if cuda else 0):
        yield _gpu(torch.cuda.get_device_name(number), *torch.cuda.mem_get_info(number))


def _gpu(name: str, free: int, total: int) -> Finding:
    found = f'{name}, {free / _GB:.1f} of {total / _GB:.1f} GB free'
    if free < 6 * _GB:
        return Finding(WARNING, found, 'end what else runs there (nvidia-smi), or train with small batches')
    return Finding(OK, found)


def _said_by(command: list[str], pattern: str) -> str | None:
    """What a program says of its version; None where it is not there or fails."""
    if shutil.which(command[0]) is None:
        return None
    said = subprocess.run(command, capture_output=True, text=True, timeout=60)
    match = re.search(pattern, said.stdout)
    return match and match.group(1)


def check_family() -> Iterator[Finding]:
    """Which of the two families of mmcv and its toolboxes is there, and that it is alone."""
    versions = _versions()
    there = {f: [n for n in names if n in versions] for f, names in FAMILIES.items()}
    present = [family for family, names in there.items() if names]
    for family in present:
        yield Finding(OK, f'{family}: ' + ', '.join(f'{name} {versions[name]}' for name in there[family]))
    if len(present) > 1:
        remedy = 'they write the same folders: uninstall all of them, then install one (docs/install.md)'
        yield Finding(FAILED, 'both families are installed', remedy)
    elif not present:
        remedy = "make setup in a clone, or pip install --no-build-isolation 'WHEEL[onedl]' (docs/install.md)"
        yield Finding(FAILED, 'neither family of mmcv is installed', remedy)
    elif 'crossformer-mm' in versions:
        yield from _outside_ranges(versions, present[0])
    if 'mmcv-lite' in versions:
        yield Finding(FAILED, 'mmcv-lite has no operators', _REINSTALL)


def check_imports() -> Iterator[Finding]:
    """Whether each part of the stack imports; one toolbox is enough."""
    for name in ('mmengine', 'mmcv', 'mmcv._ext', *TOOLBOXES):
        try:
            importlib.import_module(name)
        except ModuleNotFoundError as error:
            if name in TOOLBOXES and error.name == name:
                task = {'mmdet': 'detection', 'mmseg': 'segmentation'}[name]
                yield Finding(WARNING, f'{name} is not installed', f'install it for {task}')
                continue
            yield Finding(FAILED, f'{name}: {_one_line(error)}', _import_remedy(name))
        except Exception as error:  # the toolboxes assert their versions
            yield Finding(FAILED, f'{name}: {_one_line(error)}', _import_remedy(name))
        else:
            yield Finding(OK, f'{name} imports')


def _import_remedy(name: str) -> str:
    if name != 'mmcv._ext':
        return _REINSTALL
    return (
        'mmcv has no compiled operators for this torch: install it anew with pip install --no-build-isolation'
        ' --no-cache-dir --force-reinstall --no-deps, and the version of requirements/'
    )


def check_operators() -> Iterator[Finding]:
    """Whether mmcv's operators compute, in a process of their own, which they may bring down."""
    import torch

    for device in ('cpu', 'cuda') if torch.cuda.is_available() else ('cpu',):
        command = [sys.executable, '-c', OPERATORS, device]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=180)
        if ended.returncode == 0:
            yield Finding(OK, f'nms and roi_align compute on {device}')
            continue
        last = ended.stderr.strip().rpartition('\n')[2]
        if ended.returncode < 0:
            last = f'ended by {signal.Signals(-ended.returncode).name}'
        yield Finding(FAILED, f'nms and roi_align on {device}: {last}', _import_remedy('mmcv._ext'))


def check_registries() -> Iterator[Finding]:
    """Whether configs find the backbone, by its name and under each toolbox."""
    importlib.import_module('crossformer_mm')
    models = importlib.import_module('mmengine.registry').MODELS
    for name in ('CrossFormer', *(f'{toolbox}.CrossFormer' for toolbox in TOOLBOXES)):
        models.build({'type': name, 'arch': _narrow()})
        yield Finding(OK, f'{name} builds')


def _narrow() -> dict[str, object]:
    return {'embed_dims': 32, 'depths': (1, 1, 2, 1), 'num_heads': (1, 2, 4, 8)}


def check_forward() -> Iterator[Finding]:
    """Whether a small network computes the same in single and in double precision, and on the GPU."""
    import torch

    from .. import CrossFormer

    torch.manual_seed(0)
    image = torch.rand(1, 3, 75, 106)
    model = CrossFormer(_narrow()).eval()
    with torch.no_grad():
        single = model(image)
        devices = ['cuda'] if torch.cuda.is_available() else []
        others = [(device, model.to(device)(image.to(device))) for device in devices]
        others.append(('float64', model.cpu().double()(image.double())))
    for name, maps in others:
        pairs = zip(single, maps, strict=True)
        difference = max((a.double() - b.double().cpu()).abs().max().item() for a, b in pairs)
        found = f'float32 on the CPU and {name} differ by {difference:.1e}'
        good = difference < 1e-2
        yield (
            Finding(OK, found)
            if good
            else Finding(FAILED, found, 'install torch anew, as pinned in requirements/')
        )


def check_machine() -> Iterator[Finding]:
    """Whether disk, shared memory, processors and open files are enough for a training."""
    free = shutil.disk_usage('.').free
    yield _enough(
        free, 10 * _GB, f'{free / _GB:.1f} GB free in {Path.cwd()}', 'checkpoints take up to 1 GB each'
    )
    if os.path.isdir('/dev/shm'):  # noqa: PTH112
        shared = shutil.disk_usage('/dev/shm').free
        remedy = 'docker run --shm-size=8g, or --cfg-options train_dataloader.num_workers=0'
        yield _enough(shared, _GB, f'{shared / _GB:.1f} GB free in /dev/shm', remedy)
    processors = len(os.sched_getaffinity(0))
    yield _enough(processors, 2, f'processors: {processors}', 'loading images will wait for training')
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    files = sys.maxsize if files == resource.RLIM_INFINITY else files
    yield _enough(files, 1024, f'open files: {files}', 'ulimit -n 4096')


def _enough(amount: float, wanted: float, found: str, remedy: str) -> Finding:
    return Finding(OK, found) if amount >= wanted else Finding(WARNING, found, remedy)


CHECKS: dict[str, Callable[[], Iterator[Finding]]] = {
    'python': check_python,
    'compiler': check_compiler,
    'package': check_package,
    'torch': check_torch,
    'family': check_family,
    'imports': check_imports,
    'operators': check_operators,
    'registries': check_registries,
    'forward': check_forward,
    'machine': check_machine,
}
REMEDIES = {
    'package': 'make setup, or docs/install.md',
    'torch': 'install it first: pip install -r requirements/build.txt',
    'operators': 'see imports above',
    'registries': 'see what failed above',
    'forward': 'see what failed above',
}
