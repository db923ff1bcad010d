"""``--batch-size auto``: the largest batch that fits on the GPU, found by steps of the training itself."""

import argparse
import copy
import gc
import logging
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.dist import all_reduce, get_world_size
from mmengine.logging import MMLogger
from mmengine.model import revert_sync_batchnorm
from mmengine.optim import build_optim_wrapper
from mmengine.registry import DefaultScope
from mmengine.runner import Runner
from torch.utils.data import Dataset

from ..checkpoint.reader import Checkpoint
from ..data.datasets import build_network
from ..utils.errors import UserError, ran_out_of_memory
from .changes import settings_in
from .distributed import alone
from .memory import memory_advice
from .replay import Draw, ReplayedDataset

AUTO = 'auto'
SPARE = 0.1  # the part of the free memory that trials leave
_LOOKED_AT = 200  # training images, among which the largest are found
_CROWDED = 50  # of them, those with the most objects
_SIZE, _COUNTS = 'train_dataloader.batch_size', 'optim_wrapper.accumulative_counts'


def add_batch_size_option(parser: argparse.ArgumentParser) -> None:
    """Add ``--batch-size``."""
    parser.add_argument(
        '--batch-size',
        type=_number_or_auto,
        metavar='N|auto',
        help="images per process and step; 'auto' finds by trials how many fit on the GPU, up to the config's"
        ' images per update, and sets --accumulate to make up for what does not fit',
    )


def _number_or_auto(text: str) -> int | str:
    if text == AUTO:
        return text
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f'{text!r} is neither a number nor {AUTO}') from None


def needs_trials(cfg: Config, options: argparse.Namespace, checkpoint: Checkpoint | None) -> bool:
    """Whether the batch size must be found; a training that resumes keeps that of its checkpoint.

    Args:
        cfg: The config, changed in place.
        options: The options of the training.
        checkpoint: Where it resumes.

    Raises:
        UserError: There is no GPU, several optimizers, or no batch size in the checkpoint.
    """
    if options.batch_size != AUTO:
        return False
    if checkpoint:
        settings = settings_in(str(checkpoint['meta'].get('cfg', '')))
        if not settings.get(_SIZE, '').isdecimal():
            raise UserError(
                f'--batch-size auto: {checkpoint.path} does not state its batch size; give a number'
            )
        cfg.train_dataloader.batch_size = int(settings[_SIZE])
        if settings.get(_COUNTS, '').isdecimal() and not options.accumulate:
            cfg.optim_wrapper.accumulative_counts = int(settings[_COUNTS])
        return False
    if not torch.cuda.is_available():
        raise UserError(
            '--batch-size auto: needs a GPU; the memory of CPUs is shared with other programs and goes on'
            ' on disks, so that no trial finds its end; give a number, such as --batch-size 2'
        )
    if 'optimizer' not in cfg.optim_wrapper:
        raise UserError('--batch-size auto: the config has several optimizers; give a number')
    return True


def find_batch_size(cfg: Config, accumulate: int | None, averaged: bool) -> str:
    """Set the batch size of a training to the largest that fits, and the steps per update to fit the recipe.

    The recipe is the number of images per update that the learning rate of the config is for. If the learning
    rate is scaled (``--auto-scale-lr``), it has no effect.

    Args:
        cfg: The config with its data, changed in place.
        accumulate: The steps per update that the user wants.
        averaged: Whether the training averages its weights, for which it needs a copy.

    Returns:
        A line for the log.

    Raises:
        UserError: Not even one image fits.
    """
    with _no_trace():
        trial = Trial(cfg, averaged)
        most, recipe = trial.images // get_world_size() or 1, _recipe(cfg)
        if recipe:
            most = min(most, _share(recipe, accumulate or 1))
        with alone():  # otherwise a process that runs out of memory leaves the others waiting in a loss
            size = largest_batch(trial.fits, most)
        size = agreed(size)
    if not size:
        cfg.train_dataloader.batch_size = 1
        raise UserError(memory_advice(cfg, MemoryError('not even one image fits')))
    return f'{_set_batch(cfg, size, recipe, accumulate)} (tried: {", ".join(map(str, trial.tried))})'


def _recipe(cfg: Config) -> int | None:
    """The images per update of a config; None if the learning rate is scaled to any number."""
    scale = cfg.get('auto_scale_lr') or {}
    if scale.get('enable'):
        return None
    own = cfg.train_dataloader.batch_size * cfg.optim_wrapper.get('accumulative_counts', 1) * get_world_size()
    return scale.get('base_batch_size') or own


def _share(recipe: int, steps: int) -> int:
    """The images of a process's step, if there are ``steps`` of all processes in each update."""
    return -(-recipe // (get_world_size() * steps))


def _set_batch(cfg: Config, size: int, recipe: int | None, accumulate: int | None) -> str:
    """Set the batch size and the steps per update, and say so in a line."""
    fit, counts = size, accumulate or cfg.optim_wrapper.get('accumulative_counts', 1)
    if recipe and not accumulate:
        counts = _share(recipe, size)
        size = _share(recipe, counts)  # 8 and 8 images rather than 15 and 15, if the recipe has 16
    cfg.train_dataloader.batch_size = size
    if counts != cfg.optim_wrapper.get('accumulative_counts', 1):
        cfg.optim_wrapper.accumulative_counts = counts
    update = f'--accumulate {counts} makes {size * counts * get_world_size()} images per update'
    wanted = f', the recipe has {recipe}' if recipe else ''
    return f'batch size {size}: {fit} fit with {SPARE:.0%} of the memory to spare; {update}{wanted}'


def largest_batch(fits: Callable[[int], bool], most: int) -> int:
    """Find the largest batch that fits: doubled until one does not, then by bisection.

    Args:
        fits: Whether a batch of this many images fits.
        most: The most images that are wanted, at least 1.

    Returns:
        The number of images; 0 if not even one fits.
    """
    good, bad, size = 0, most + 1, 1
    while good < size < bad:
        if fits(size):
            good = size
        else:
            bad = size
        size = min(2 * good, most) if bad > most else (good + bad) // 2
    return good


def agreed(size: int) -> int:
    """The smallest of all processes' numbers."""
    smallest = torch.tensor(size)
    all_reduce(smallest, 'min')
    return int(smallest)


class Trial:
    """Steps of a training with its largest images, on a model and data of its own.

    Args:
        cfg: The config of the training, with its data.
        averaged: Whether it averages its weights.

    Attributes:
        images: The number of training images.
        tried: The batch sizes that were tried.
    """

    def __init__(self, cfg: Config, averaged: bool) -> None:
        self.cfg = cfg
        self.tried: list[int] = []
        with DefaultScope.overwrite_default_scope(cfg.get('default_scope')):
            one_by_one = {
                'batch_size': 1,
                'num_workers': 0,
                'persistent_workers': False,
                'prefetch_factor': None,
            }
            loader = Runner.build_dataloader({**cfg.train_dataloader, **one_by_one}, seed=0)
            model = revert_sync_batchnorm(build_network(cfg, cfg.model))
        self.images, self._collate = len(loader.dataset), loader.collate_fn
        self._samples = largest_samples(loader.dataset)
        self._model = model.to(get_device()).train()
        self._others: list[Any] = [copy.deepcopy(model)] if averaged else []
        if get_world_size() > 1:  # DistributedDataParallel copies the gradients
            self._others.append([torch.empty_like(weight) for weight in self._model.parameters()])

    def fits(self, size: int) -> bool:
        """Whether an update with two steps of this many images runs without running out of memory."""
        self.tried.append(size)
        fit = self._fits(size)
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        return fit

    def _fits(self, size: int) -> bool:
        try:
            with _memory_to_spare():
                self._update(size)
        except Exception as error:
            if not ran_out_of_memory(error):
                raise
            return False
        return True

    def _update(self, size: int) -> None:
        self._model.zero_grad()
        with DefaultScope.overwrite_default_scope(self.cfg.get('default_scope')):
            # Gradients wait for the second step, as they do with --accumulate.
            wrapper = build_optim_wrapper(self._model, {**self.cfg.optim_wrapper, 'accumulative_counts': 2})
            for group in wrapper.optimizer.param_groups:
                group['lr'] = 0.0  # any weights will do, if they stay finite
            for weight in self._model.parameters():
                weight.grad = torch.zeros_like(weight) if weight.requires_grad else None
            wrapper.optimizer.step()  # makes the optimizer's state, also if float16 skips the first updates
            wrapper.zero_grad()
            first, *others = self._samples
            samples = [first] if size == 1 else [*others[:2], *[others[-1]] * (size - 2)]
            for _ in range(2):
                self._model.train_step(self._collate(copy.deepcopy(samples)), wrapper)
        self._model.zero_grad()


def largest_samples(dataset: Dataset) -> Sequence[Any]:
    """The samples with the largest area, height, width and number of objects that a training pipeline gives.

    Batches are padded to the largest height and width in them.

    Args:
        dataset: The training data.
    """
    largest: dict[int, tuple[int, Any]] = {}
    replayed = ReplayedDataset(dataset)
    for index in _looked_at(dataset):
        sample = replayed[Draw(index, seed=index)]
        height, width = sample['inputs'].shape[-2:]
        truth = sample['data_samples']
        objects = len(truth.gt_instances) if 'gt_instances' in truth else 0
        for kind, value in enumerate((height * width, height, width, objects)):
            if kind not in largest or value > largest[kind][0]:
                largest[kind] = value, sample
    return [sample for _, (_, sample) in sorted(largest.items())]


def _looked_at(dataset: Dataset) -> list[int]:
    """The images with the most objects, and others at equal distances."""
    count = len(dataset)
    chosen = {*np.linspace(0, count - 1, min(count, _LOOKED_AT - _CROWDED), dtype=int).tolist()}
    if hasattr(dataset, 'get_data_info'):
        objects = [len(dataset.get_data_info(index).get('instances', ())) for index in range(count)]
        chosen |= {*np.argsort(objects, kind='stable')[-_CROWDED:].tolist()}
    return sorted(chosen)


@contextmanager
def _memory_to_spare() -> Iterator[None]:
    """Leave a part of the memory that is free on a GPU."""
    if not torch.cuda.is_available():
        yield
        return
    free, total = torch.cuda.mem_get_info()
    torch.cuda.set_per_process_memory_fraction((1 - SPARE) * (free + torch.cuda.memory_reserved()) / total)
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


@contextmanager
def _no_trace() -> Iterator[None]:
    """Restore the random generators, from which a training without a seed draws one, and log nothing."""
    states = random.getstate(), np.random.get_state()
    logger = MMLogger.get_current_instance()
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        logger.setLevel(level)
