"""The machine, the software and the memory of this process."""

import datetime
import os
import platform
from importlib.metadata import packages_distributions, version
from pathlib import Path
from typing import Any

import torch

from ..version import __version__

# CPU instructions for matrix products, newest first.
CPU_FEATURES = ('amx_bf16', 'avx512_bf16', 'avx512f', 'avx2', 'asimd', 'sve')
PACKAGES = ('torch', 'mmcv', 'mmengine', 'mmdet', 'mmseg', 'mmpretrain')


def resident_bytes(field: str) -> int:
    """A field of this process's ``/proc`` status; ``getrusage`` would include the parent's peak."""
    return int(_colon_fields('/proc/self/status')[field].split()[0]) * 1024


def _colon_fields(path: str) -> dict[str, str]:
    """The ``name: value`` lines of a file's first paragraph as a dict; empty if the file is missing."""
    if not Path(path).is_file():
        return {}
    lines = Path(path).read_text().partition('\n\n')[0].splitlines()
    return {name.strip(): value.strip() for name, _, value in (line.partition(':') for line in lines)}


def describe_machine(device: str = 'cpu') -> dict[str, Any]:
    """Describe the machine and the software that measured figures depend on.

    Args:
        device: Where the figures are measured.

    Returns:
        Plain data, for JSON.
    """
    cpu = _colon_fields('/proc/cpuinfo')
    distributions = [name for package in PACKAGES for name in packages_distributions().get(package, [])]
    machine = {
        'cpu': cpu.get('model name', platform.machine()),
        'cores': len(os.sched_getaffinity(0)),
        'threads': torch.get_num_threads(),
        'features': [name for name in CPU_FEATURES if name in cpu.get('flags', '').split()],
        'python': platform.python_version(),
        'versions': {name: version(name) for name in distributions} | {'crossformer-mm': __version__},
        'date': datetime.date.today().isoformat(),
    }
    if torch.device(device).type == 'cuda':
        machine |= {'gpu': torch.cuda.get_device_name(device), 'cuda': torch.version.cuda}
    return machine
