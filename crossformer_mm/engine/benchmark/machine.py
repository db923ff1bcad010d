"""What a figure depends on beside the code: the machine, and versions."""

import datetime
import os
import platform
from collections.abc import Callable
from importlib.metadata import packages_distributions, version
from pathlib import Path
from typing import Any

import torch

from .workload import DTYPES

# What matrix products on CPUs are made of, the latest first.
FEATURES = ('amx_bf16', 'avx512_bf16', 'avx512f', 'avx2', 'asimd', 'sve')
PACKAGES = ('torch', 'mmcv', 'mmengine', 'mmdet', 'mmseg')
PRODUCT_SIDE = {'cpu': 2048, 'cuda': 8192}


def describe(device: str = 'cpu') -> dict[str, Any]:
    """The machine, the versions and the date, as plain data.

    Args:
        device: Where the figures are taken.

    Returns:
        Names and values, for a result file.
    """
    facts = {
        'cpu': _cpu_fields().get('model name', platform.machine()),
        'cores': len(os.sched_getaffinity(0)),
        'threads': torch.get_num_threads(),
        'features': [name for name in FEATURES if name in _cpu_fields().get('flags', '').split()],
        'python': platform.python_version(),
        'versions': _versions(),
        'date': datetime.date.today().isoformat(),
    }
    if device != 'cpu':
        facts['gpu'] = torch.cuda.get_device_name(device)
        facts['cuda'] = torch.version.cuda
    return facts


def product(dtype: str, device: str = 'cpu') -> tuple[Callable[[], None], int]:
    """A plain matrix product, which nothing made of products can be quicker than.

    Args:
        dtype: A name in :data:`DTYPES`.
        device: Where it runs.

    Returns:
        What runs it, and its multiply-adds.
    """
    side = PRODUCT_SIDE[torch.device(device).type]
    a, b = torch.randn(2, side, side, device=device, dtype=DTYPES[dtype])
    out = torch.empty_like(a)
    return lambda: torch.mm(a, b, out=out), side**3


def _cpu_fields() -> dict[str, str]:
    """Of Linux's description, the first processor's."""
    path = Path('/proc/cpuinfo')
    if not path.is_file():
        return {}
    lines = path.read_text().partition('\n\n')[0].splitlines()
    return {key.strip(): value.strip() for key, _, value in (line.partition(':') for line in lines)}


def _versions() -> dict[str, str]:
    """By the distributions' names: the two families of toolboxes have the same imports."""
    distributions = packages_distributions()
    versions = {}
    for package in PACKAGES:
        for name in dict.fromkeys(distributions.get(package, [])):
            versions[name] = version(name)
    return versions
