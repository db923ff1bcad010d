"""Make what is random in a training a function of the run's seed and the iteration.

A resumed run then meets what an uninterrupted one would: the same images, augmented alike, and the same draws
in the network. No generator's state has to be saved, which could not be done for worker processes: they are
ahead of the iteration by what they prefetched.
"""

import ctypes
import random
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from mmengine.dist import get_rank, get_world_size
from torch.utils.data import DataLoader, Dataset, Sampler

SAMPLE, STEP = 0, 1  # what a seed is for
PR_SET_PDEATHSIG = 1  # of Linux's prctl: the signal to get when the parent dies


class Draw(NamedTuple):
    """An image to load, and the seed of its augmentation."""

    index: int
    seed: int


def seed_of(run: int, purpose: int, iteration: int, place: int) -> int:
    """The seed of one thing in one iteration.

    Args:
        run: The run's seed.
        purpose: :data:`SAMPLE` or :data:`STEP`.
        iteration: Counted from the run's beginning.
        place: The image's place in the batch of all processes, or the process's rank.

    Returns:
        31 bits, for any generator.
    """
    return int(np.random.SeedSequence((run, purpose, iteration, place)).generate_state(1)[0] >> 1)


def seed_generators(seed: int) -> None:
    """Seed what augmentations and networks draw from: Python's, numpy's and torch's generators."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def seed_step(run: int, iteration: int) -> None:
    """Seed what a training step draws, in each process something else.

    Args:
        run: The run's seed.
        iteration: Counted from the run's beginning.
    """
    seed_generators(seed_of(run, STEP, iteration, get_rank()))


class ReplayedBatches(Sampler):
    """The batches of another sampler from any iteration on, each image with the seed of its augmentation.

    Args:
        batches: Yields lists of indices, the same ones each time for the same epoch.
        seed: The run's seed.
    """

    def __init__(self, batches: Sampler, seed: int) -> None:
        self.batches = batches
        self.seed = seed
        self.iteration = 0
        self.skipped = 0

    @property
    def sampler(self) -> Any:
        """What the batches are drawn from, for mmengine's hook that tells it the epoch."""
        return getattr(self.batches, 'sampler', None)

    def start(self, iteration: int, skipped: int) -> None:
        """Set where to go on.

        Args:
            iteration: The number of the next batch, from the run's beginning.
            skipped: How many batches to leave out before it, over as many epochs as they take.
        """
        self.iteration = iteration
        self.skipped = skipped

    def __iter__(self) -> Iterator[list[Draw]]:
        """One epoch, less what is left out."""
        for batch in self.batches:
            if self.skipped:
                self.skipped -= 1
                continue
            yield self._draws(batch)
            self.iteration += 1

    def __len__(self) -> int:
        """Batches of a whole epoch."""
        return len(self.batches)

    def _draws(self, batch: Sequence[int]) -> list[Draw]:
        rank, processes = get_rank(), get_world_size()
        # mmengine's samplers deal images out to the processes in turn: numbered so, an image has the same
        # seed however many processes share the batch.
        places = range(rank, rank + processes * len(batch), processes)
        return [
            Draw(index, seed_of(self.seed, SAMPLE, self.iteration, place))
            for index, place in zip(batch, places, strict=True)
        ]


class ReplayedDataset(Dataset):
    """A dataset whose samples are augmented as the :class:`Draw` says that asks for them.

    Args:
        dataset: Any map-style dataset; its other attributes are this one's too.
    """

    __getitems__ = None  # one sample at a time, whatever the dataset within offers

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset

    def __getitem__(self, draw: Draw) -> Any:
        """The sample; in the main process, the loop seeds the generators again before the step."""
        seed_generators(draw.seed)
        return self.dataset[draw.index]

    def __len__(self) -> int:
        """How many samples there are."""
        return len(self.dataset)

    def __getattr__(self, name: str) -> Any:
        """``metainfo`` and all else that hooks look for."""
        if name == 'dataset' or name.startswith('__'):  # not there yet while this is unpickled
            raise AttributeError(name)
        return getattr(self.dataset, name)


def die_with_parent(worker_init_fn: Callable[[int], None] | None, worker_id: int) -> None:
    """Initialise a worker process that does not outlive a run that is killed.

    torch's workers notice within five seconds that their parent is gone, but one that still has a sample to
    hand over that is larger than a pipe's buffer (64 KB, such as the masks of an image) then waits forever.

    Args:
        worker_init_fn: The loader's own initialisation of a worker.
        worker_id: The worker's number.
    """
    if sys.platform == 'linux':
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if worker_init_fn is not None:
        worker_init_fn(worker_id)


class ReplayedLoader(DataLoader):
    """A data loader that starts at any iteration, and fetches nothing before it is asked.

    Args:
        loader: The loader as the config has it; gives the dataset, the sampler and the worker processes.
        seed: The run's seed.
    """

    def __init__(self, loader: DataLoader, seed: int) -> None:
        super().__init__(
            ReplayedDataset(loader.dataset),
            batch_sampler=ReplayedBatches(loader.batch_sampler, seed),
            num_workers=loader.num_workers,
            collate_fn=loader.collate_fn,
            pin_memory=loader.pin_memory,
            timeout=loader.timeout,
            worker_init_fn=partial(die_with_parent, loader.worker_init_fn),
            multiprocessing_context=loader.multiprocessing_context,
            prefetch_factor=loader.prefetch_factor,
            persistent_workers=loader.persistent_workers,
        )

    def __iter__(self) -> Iterator[Any]:
        """One epoch of batches, from where :meth:`ReplayedBatches.start` says."""
        # A generator: open-mmlab's mmengine makes the iterator long before it knows the iteration.
        yield from super().__iter__()

    def endless(self, iteration: int) -> Iterator[Any]:
        """Epoch after epoch.

        Args:
            iteration: The number of the first batch, from the run's beginning.

        Yields:
            Batches.
        """
        self.batch_sampler.start(iteration, skipped=iteration)
        epoch = 0
        while True:
            if hasattr(self.batch_sampler.sampler, 'set_epoch'):
                self.batch_sampler.sampler.set_epoch(epoch)
            yield from self
            epoch += 1
