"""The peak of memory that a case takes, each in a process of its own.

Within one process an allocator keeps what earlier cases gave back, and hides what later ones take.
"""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import torch

from ...utils.errors import UserError
from .workload import Case, Workload

STEPS = 2  # the second has the optimizer's state and the gradients' memory from the first


def peak_above_start(step: Callable[[], None], device: str = 'cpu') -> int:
    """Run a step twice and see how much memory it took at most.

    Args:
        step: What to run.
        device: Where it runs.

    Returns:
        The highest resident memory of this process (on a GPU, of its tensors) above that at the start, in
        bytes.
    """
    start = _reset(device)
    for _ in range(STEPS):
        step()
    return _peak(device) - start


def peak_of_case(case: Case, threads: int | None = None) -> int:
    """Measure a case in a new process.

    Args:
        case: What to run.
        threads: CPU threads; None leaves PyTorch's own choice.

    Returns:
        What :func:`peak_above_start` gave there, in bytes.

    Raises:
        UserError: The process failed or was killed.
    """
    question = json.dumps({'case': case.to_dict(), 'threads': threads})
    command = [sys.executable, '-m', __name__, question]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = (done.stderr.strip() or 'killed, perhaps for want of memory').splitlines()[-1]
        raise UserError(f'memory of {case.subject.label}: its process ended with {done.returncode}: {reason}')
    return int(done.stdout.splitlines()[-1])


def _reset(device: str) -> int:
    """Begin a new peak; the memory now in use."""
    if device != 'cpu':
        torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.memory_allocated(device)
    Path('/proc/self/clear_refs').write_text('5')  # 5: the peak of resident memory, and nothing else
    return _resident('VmRSS')


def _peak(device: str) -> int:
    return torch.cuda.max_memory_allocated(device) if device != 'cpu' else _resident('VmHWM')


def _resident(field: str) -> int:
    """Linux's figures of this process. ``getrusage`` would begin with its parent's peak."""
    lines = Path('/proc/self/status').read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f'{field}:'))


def main(question: str) -> None:
    """Answer :func:`peak_of_case`, in the process that it started."""
    asked = json.loads(question)
    if asked['threads']:
        torch.set_num_threads(asked['threads'])
    case = Case.from_dict(asked['case'])
    print(peak_above_start(Workload(case), case.device))


if __name__ == '__main__':
    main(sys.argv[1])
