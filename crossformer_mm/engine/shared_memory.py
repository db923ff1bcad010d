"""Load data in worker processes also where shared memory is small, as it is by default in Docker."""

import os
import traceback
from collections.abc import Callable
from multiprocessing.reduction import ForkingPickler
from typing import Any

import numpy as np
import torch

from ..compat import reduce_storage
from ..utils.processes import end_with_parent

FOLDER = '/dev/shm'
LITTLE = 1 << 30  # free bytes
_SIGNS = ('file </torch_', 'killed by signal: Bus error')  # in torch's messages
MORE = 'in Docker, make it larger with --shm-size=8g or --ipc=host'


def copy_if_shared_memory_is_full() -> None:
    """Let worker processes started from now on send tensors through pipes if they cannot share them.

    Without it, torch drops the batch, and the run waits for it forever.
    """
    ForkingPickler.register(torch.UntypedStorage, _reduce)


def shared_memory_warnings() -> list[str]:
    """Lines for the log."""
    try:
        status = os.statvfs(FOLDER)
    except OSError:
        return []
    free = status.f_bavail * status.f_frsize
    if free >= LITTLE:
        return []
    return [
        f'{FOLDER} has only {free >> 20} MB free: images that do not fit are copied from worker processes'
        f' through pipes, which is slower; {MORE}'
    ]


def shared_memory_is_full(error: Exception) -> bool:
    """Whether an error, also of a worker, means that there is no room for a semaphore or tensor."""
    files = [frame.f_code.co_filename for frame, _ in traceback.walk_tb(error.__traceback__)]
    if isinstance(error, OSError):
        return any(file.endswith('multiprocessing/synchronize.py') for file in files)
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in _SIGNS)


def _reduce(storage: torch.UntypedStorage) -> tuple[Callable, tuple[Any, ...]]:
    try:
        return reduce_storage(storage)
    except RuntimeError:  # shared memory is full, or there are too many open files
        end_with_parent()  # which a process that waits for a reader of its pipe would not notice
        return _storage_of, (torch.empty(0, dtype=torch.uint8).set_(storage).numpy(),)


def _storage_of(values: np.ndarray) -> torch.UntypedStorage:
    return torch.from_numpy(values).untyped_storage()
