"""Images of many sizes in a row, against as many pixels at one size.

Data sets have images of every shape. What a network prepares for a size should cost next to nothing, however
many sizes come along.
"""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from ...utils.errors import UserError
from ...utils.progress import progress_bar
from .compare import Setting
from .subjects import Subject
from .timing import time_rounds
from .workload import Workload

IMAGES = 20
LEAST, MOST = 0.7, 1.3  # sides, as shares of the setting's


def draw_sizes(setting: Setting, round_: int) -> list[tuple[int, int]]:
    """Heights and widths around a setting's, new ones in every round.

    Args:
        setting: Its height and width are the middle.
        round_: Which round.

    Returns:
        :data:`IMAGES` sizes.
    """
    rng = np.random.default_rng([setting.height, setting.width, round_])
    sides = rng.uniform(LEAST, MOST, (IMAGES, 2)) * (setting.height, setting.width)
    return [(max(int(height), 1), max(int(width), 1)) for height, width in sides]


def measure_sizes(
    subjects: Sequence[Subject], settings: Sequence[Setting], rounds: int
) -> list[dict[str, Any]]:
    """Measure backbones on images of many sizes and of one.

    Args:
        subjects: The backbones.
        settings: The one size of each, and the middle of the many.
        rounds: Timed rounds, after one that is not; every round has sizes that never came before.

    Returns:
        A record a setting, as plain data: ``setting``, and ``subjects`` by label, with the seconds for a
        million pixels, a round each, at ``many`` sizes and at ``one``.

    Raises:
        UserError: A subject is a whole model.
    """
    whole = [subject.label for subject in subjects if subject.is_whole_model]
    if whole:
        raise UserError(f'{whole[0]}: sizes are compared for backbones, not for whole models')
    records = []
    with progress_bar() as bar:
        task = bar.add_task('sizes', total=len(settings) * len(subjects) * (rounds + 1))
        for setting in settings:
            record: dict[str, Any] = {'setting': asdict(setting), 'subjects': {}}
            for subject in subjects:
                step = Workload(setting.case(subject))
                found: dict[str, list[float]] = {'many': [], 'one': []}
                for round_ in range(rounds + 1):
                    sizes = draw_sizes(setting, round_)
                    seconds = _time_both(step, sizes, setting)
                    if round_:
                        for name, value in seconds.items():
                            found[name].append(value)
                    bar.advance(task)
                record['subjects'][subject.label] = found
            records.append(record)
    return records


def _time_both(step: Workload, sizes: list[tuple[int, int]], setting: Setting) -> dict[str, float]:
    """Seconds for a million pixels; images of the many sizes and of the one take turns."""
    seconds, pixels = {'many': 0.0, 'one': 0.0}, {'many': 0, 'one': 0}
    for size in sizes:
        images = {'many': step.images(*size), 'one': step.images(setting.height, setting.width)}
        turns = {name: lambda batch=batch: step(batch) for name, batch in images.items()}
        for name, (taken,) in time_rounds(turns, 1, setting.device).items():
            seconds[name] += taken
            pixels[name] += images[name][:, 0].numel()
    return {name: 1e6 * seconds[name] / pixels[name] for name in seconds}
