"""Networks side by side, in every setting that is asked for."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from ...utils.progress import progress_bar
from .machine import product
from .memory import peak_of_case
from .subjects import Subject
from .timing import time_rounds
from .workload import Case, Workload

PRODUCT = 'matrix product'


@dataclass(frozen=True)
class Setting:
    """What the networks are compared at; as in :class:`Case`."""

    mode: str
    dtype: str
    height: int
    width: int
    batch: int = 1
    device: str = 'cpu'

    def case(self, subject: Subject) -> Case:
        """This setting of one network."""
        return Case(subject, **asdict(self))


def compare(
    subjects: Sequence[Subject],
    settings: Sequence[Setting],
    rounds: int,
    warm_up: int = 1,
    memory: bool = True,
    threads: int | None = None,
) -> list[dict[str, Any]]:
    """Measure networks in turn.

    Args:
        subjects: The networks.
        settings: What to measure them at.
        rounds: Timed rounds; 0 leaves times out.
        warm_up: Runs of each before, beside the one that counts multiply-adds.
        memory: Measure the peak of memory too, each in a process of its own.
        threads: CPU threads, for those processes.

    Returns:
        A record a setting, as plain data: ``setting``, and ``subjects`` by label, with ``seconds`` (one a
        round), ``multiply_adds`` and ``peak_bytes`` of each; with times also ``product``, the ``seconds``
        and ``multiply_adds`` of a plain matrix product in the same rounds.

    Raises:
        UserError: A network does not build, or does not run in a process of its own.
    """
    timed = len(subjects) * (1 + warm_up + rounds) + rounds if rounds else 0
    tasks = timed + len(subjects) * memory
    records = []
    with progress_bar() as bar:
        advance = partial(bar.advance, bar.add_task('runs', total=len(settings) * tasks))
        for setting in settings:
            record: dict[str, Any] = {'setting': asdict(setting)}
            record['subjects'] = {subject.label: {} for subject in subjects}
            if rounds:
                _add_times(record, subjects, setting, rounds, warm_up, advance)
            if memory:
                for subject in subjects:
                    peak = peak_of_case(setting.case(subject), threads)
                    record['subjects'][subject.label]['peak_bytes'] = peak
                    advance()
            records.append(record)
    return records


def _add_times(
    record: dict[str, Any],
    subjects: Sequence[Subject],
    setting: Setting,
    rounds: int,
    warm_up: int,
    advance: Callable[[], None],
) -> None:
    steps = {subject.label: Workload(setting.case(subject)) for subject in subjects}
    for label, step in steps.items():
        record['subjects'][label]['multiply_adds'] = step.count()
        advance()
        for _ in range(warm_up):
            step()
            advance()
    multiply, multiply_adds = product(setting.dtype, setting.device)
    multiply()
    times = time_rounds({**steps, PRODUCT: multiply}, rounds, setting.device, advance)
    record['product'] = {'seconds': times.pop(PRODUCT), 'multiply_adds': multiply_adds}
    for label, seconds in times.items():
        record['subjects'][label]['seconds'] = seconds
