"""Timing in turn, and what is made of the times."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch


@dataclass(frozen=True)
class Spread:
    """How measured values lie, all in their unit."""

    median: float
    lowest: float
    lower_quartile: float
    upper_quartile: float


def spread(values: Sequence[float]) -> Spread:
    """Median, minimum and quartiles."""
    return Spread(*map(float, np.percentile(values, [50, 0, 25, 75])))


def time_rounds(
    steps: Mapping[str, Callable[[], None]],
    rounds: int,
    device: str = 'cpu',
    after_step: Callable[[], None] = lambda: None,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Time steps in turn: the first, the second, …, then the first again.

    What slows a machine for a while then hits all of them, and a round's ratios keep their meaning.

    Args:
        steps: What to time, by name. Warm them up before.
        rounds: How often each is run.
        device: Where the steps run; a CUDA device is waited for before each reading of the clock.
        after_step: Called after each, outside its time.
        clock: Gives the time.

    Returns:
        The times of each, one a round, in the clock's unit.
    """
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(rounds):
        for name, step in steps.items():
            _wait_for(device)
            start = clock()
            step()
            _wait_for(device)
            times[name].append(clock() - start)
            after_step()
    return times


def _wait_for(device: str) -> None:
    if device != 'cpu':
        torch.cuda.synchronize(device)


def ratio_of_medians(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """The median of one over the median of the other."""
    return float(np.median(ours) / np.median(theirs))


def median_ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """The median of the rounds' ratios, which leaves out what came and went with a round."""
    return float(np.median(np.divide(ours, theirs)))


def growth_exponent(pixels: Sequence[int], seconds: Sequence[float]) -> float:
    """The power of the pixels that times grow with: the slope of a line through their logarithms."""
    return float(np.polyfit(np.log(pixels), np.log(seconds), 1)[0])
