"""End the data loaders' worker processes with the run."""

import ctypes
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from mmengine.runner import Runner

PR_SET_PDEATHSIG = 1  # of Linux's prctl: the signal to get when the parent dies


def die_with_parent(worker_init_fn: Callable[[int], None] | None, worker_id: int) -> None:
    """Start a worker process that does not outlive a run that is killed.

    torch's own workers look every five seconds whether their parent is there; one was seen to sleep on for
    fifteen seconds all the same.

    Args:
        worker_init_fn: What the loader does at the start of a worker.
        worker_id: The worker's number.
    """
    if sys.platform == 'linux':
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if worker_init_fn is not None:
        worker_init_fn(worker_id)


@contextmanager
def ended_workers(runner: Runner) -> Iterator[None]:
    """End the worker processes when the block ends, by an error too.

    torch ends those that a loader keeps between epochs when it collects garbage, which then takes five
    seconds for each of them, or when the whole process ends.

    Args:
        runner: The run whose loaders they serve.
    """
    try:
        yield
    finally:
        for loop in (runner._train_loop, runner._val_loop):
            kept = getattr(getattr(loop, 'dataloader', None), '_iterator', None)
            if kept is not None:
                kept._shutdown_workers()
