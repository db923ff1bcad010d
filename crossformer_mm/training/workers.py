"""End the data loaders' worker processes with the run."""

from collections.abc import Iterator
from contextlib import contextmanager

from mmengine.runner import Runner


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
