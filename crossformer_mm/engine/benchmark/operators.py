"""Where the time goes: by kinds of operators, from PyTorch's profiler."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from torch.profiler import ProfilerActivity, profile

from ...utils.progress import progress_bar
from .compare import Setting
from .subjects import Subject
from .workload import Workload

ROUNDS = 4
# The first that an operator's name matches.
KINDS = {
    'convolution': 'conv|slow_conv',
    'attention': r'attention|scaled_dot_product|bmm|softmax',
    'linear layers': r'::(addmm|mm|linear|mkldnn_linear\w*|matmul|add_mlp)(_|$)|gemm',
    'norms': 'norm',
    'GELU': 'gelu',
    'copies': r'copy|clone|contiguous|::_?(cat|stack|index|gather|roll|flip)|_pad|_groups|shuffle',
    'fills': r'fill|zero|::(ones|empty|new_)',
    'optimizer': 'adam|foreach|optimizer',
    'elementwise': r'::(add|sub|mul|div|neg|relu|threshold|where|sqrt|sum|mean|bernoulli)',
}
OTHER = 'other'


def kind_of(operator: str) -> str:
    """The kind of operator that a profiler's name belongs to."""
    name = operator.lower()
    return next((kind for kind, pattern in KINDS.items() if re.search(pattern, name)), OTHER)


def measure_operators(subjects: Sequence[Subject], settings: Sequence[Setting]) -> list[dict[str, Any]]:
    """Profile networks, in turn.

    Args:
        subjects: The networks.
        settings: What to run them at.

    Returns:
        A record a setting, as plain data: ``setting``, and ``subjects`` by label, with the seconds of a step
        by kind of operator. A GPU's are those of its kernels.

    Raises:
        UserError: A network does not build.
    """
    records = []
    with progress_bar() as bar:
        task = bar.add_task('profiling', total=len(settings) * len(subjects) * (1 + ROUNDS))
        for setting in settings:
            steps = {subject.label: Workload(setting.case(subject)) for subject in subjects}
            for step in steps.values():
                step()
                bar.advance(task)
            seconds: dict[str, Counter[str]] = {label: Counter() for label in steps}
            for _ in range(ROUNDS):
                for label, step in steps.items():
                    seconds[label].update(profile_step(step, setting.device))
                    bar.advance(task)
            means = {label: _means(sums) for label, sums in seconds.items()}
            records.append({'setting': asdict(setting), 'subjects': means})
    return records


def profile_step(step: Workload, device: str = 'cpu') -> dict[str, float]:
    """Profile a step that has run before.

    Args:
        step: What to run, once.
        device: Where it runs.

    Returns:
        Seconds by kind of operator.
    """
    cuda = device != 'cpu'
    with profile(activities=[ProfilerActivity.CPU, *[ProfilerActivity.CUDA] * cuda]) as profiler:
        step()
    seconds: Counter[str] = Counter()
    for event in profiler.key_averages():
        microseconds = event.self_device_time_total if cuda else event.self_cpu_time_total
        seconds[kind_of(event.key)] += microseconds / 1e6
    return dict(seconds)


def _means(sums: Counter[str]) -> dict[str, float]:
    """Of the rounds, the largest first."""
    return {kind: seconds / ROUNDS for kind, seconds in sums.most_common()}
