"""Make all randomness of a training a function of the run's seed and the iteration.

A resumed run then gets the same images with the same augmentation, and the same random numbers in the
network, as an uninterrupted one. No state of a random generator has to be saved; that of worker processes
could not be, because they prefetch batches of later iterations.
"""

import random
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from mmengine.dist import get_rank, get_world_size
from torch.utils.data import DataLoader, Dataset, Sampler

from ..utils.processes import end_with_parent

SAMPLE, STEP = 0, 1  # purposes of seeds


class Draw(NamedTuple):
    """An image to load, and the seed of its augmentation."""

    index: int
    seed: int


def seed_of(run: int, purpose: int, iteration: int, index: int) -> int:
    """Derive the seed for one purpose in one iteration.

    Args:
        run: The run's seed.
        purpose: :data:`SAMPLE` or :data:`STEP`.
        iteration: Counted from the beginning of the run.
        index: The image's index in the batch of all processes, or the process's rank.

    Returns:
        A seed of 31 bits, which every generator accepts.
    """
    return int(np.random.SeedSequence((run, purpose, iteration, index)).generate_state(1)[0] >> 1)


def seed_generators(seed: int) -> None:
    """Seed Python's, numpy's and torch's generators."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def seed_step(run: int, iteration: int) -> None:
    """Seed a training step, differently in each process.

    Args:
        run: The run's seed.
        iteration: Counted from the beginning of the run.
    """
    seed_generators(seed_of(run, STEP, iteration, get_rank()))


class ReplayedBatches(Sampler):
    """The batches of another sampler, starting at any iteration, with a seed for each image's augmentation.

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
        """The sampler of single images, for mmengine's hook that sets its epoch."""
        return getattr(self.batches, 'sampler', None)

    def start(self, iteration: int, skipped: int) -> None:
        """Set the iteration to continue from.

        Args:
            iteration: The index of the next batch, from the beginning of the run.
            skipped: How many batches to skip before it, over as many epochs as necessary.
        """
        self.iteration = iteration
        self.skipped = skipped

    def __iter__(self) -> Iterator[list[Draw]]:
        """One epoch, without the skipped batches."""
        for batch in self.batches:
            if self.skipped:
                self.skipped -= 1
                continue
            yield self._draws(batch)
            self.iteration += 1

    def __len__(self) -> int:
        """Batches per epoch, including skipped ones."""
        return len(self.batches)

    def _draws(self, batch: Sequence[int]) -> list[Draw]:
        rank, processes = get_rank(), get_world_size()
        # mmengine's samplers distribute images over the processes in turn. With this index, an image has the
        # same seed for any number of processes.
        return [
            Draw(image, seed_of(self.seed, SAMPLE, self.iteration, rank + processes * i))
            for i, image in enumerate(batch)
        ]


class ReplayedDataset(Dataset):
    """A dataset that seeds the augmentation of each sample with the seed in its :class:`Draw`.

    Args:
        dataset: Any map-style dataset; its other attributes are available here too.
    """

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset

    def __getitem__(self, draw: Draw) -> Any:
        """One sample. In the main process, the loop seeds the generators again before the step."""
        seed_generators(draw.seed)
        return self.dataset[draw.index]

    def __len__(self) -> int:
        """Number of samples."""
        return len(self.dataset)

    def __getattr__(self, name: str) -> Any:
        """``metainfo`` and everything else that hooks use."""
        if name == 'dataset' or name.startswith('__'):  # unpickling; torch's __getitems__, which has no seeds
            raise AttributeError(name)
        return getattr(self.dataset, name)

    def __setattr__(self, name: str, value: Any) -> None:
        """Another ``pipeline``, which hooks set for the last epochs."""
        if name == 'dataset':
            super().__setattr__(name, value)
        else:
            setattr(self.dataset, name, value)


def die_with_parent(worker_init_fn: Callable[[int], None] | None, worker_id: int) -> None:
    """Initialise a worker process so that it ends when the run is killed.

    torch's workers notice within five seconds that their parent is gone. But a worker that is still sending a
    sample larger than a pipe's buffer (64 KB, such as the masks of an image) then waits forever.

    Args:
        worker_init_fn: The loader's own initialisation of a worker.
        worker_id: The worker's number.
    """
    end_with_parent()
    if worker_init_fn is not None:
        worker_init_fn(worker_id)


class ReplayedLoader(DataLoader):
    """A data loader that starts at any iteration, and fetches nothing before the first batch is requested.

    Args:
        loader: The loader of the config, for its dataset, sampler and settings.
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
        """One epoch of batches, from the one that :meth:`ReplayedBatches.start` set."""
        # A generator: open-mmlab's mmengine creates the iterator long before it knows the iteration.
        yield from super().__iter__()

    def endless(self, iteration: int) -> Iterator[Any]:
        """Batches of epoch after epoch.

        Args:
            iteration: The index of the first batch, from the beginning of the run.

        """
        self.batch_sampler.start(iteration, skipped=iteration)
        epoch = 0
        while True:
            if hasattr(self.batch_sampler.sampler, 'set_epoch'):
                self.batch_sampler.sampler.set_epoch(epoch)
            yield from self
            epoch += 1
