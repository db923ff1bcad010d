"""Start a tool in several processes, and end them all with the first one that fails."""

import argparse
import logging
import os
import signal

from torch.distributed import run as torchrun
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure

from ..utils.errors import LostProcessError, UserError
from .cli import Terminated

FILES = {'train': ('CONFIG',), 'test': ('CONFIG', 'CHECKPOINT')}  # a tool's words before the number
OWN_PORT = '29500'  # torchrun's own, on which several machines meet


def launcher_parser() -> argparse.ArgumentParser:
    """The words of ``crossformer launch``, ``tools/dist_train.sh`` and ``tools/dist_test.sh``."""
    parser = argparse.ArgumentParser(description='Run a tool in several processes.')
    parser.add_argument('tool', choices=FILES, help='the tool')
    parser.add_argument('words', nargs=argparse.REMAINDER, help='its files, the number of processes, options')
    return parser


def launch(options: argparse.Namespace) -> None:
    """Run a tool in several processes.

    Args:
        options: What :func:`launcher_parser` parsed.

    Raises:
        UserError: The words are not enough, or a process failed.
        KeyboardInterrupt: So the run was ended.
    """
    files = FILES[options.tool]
    if len(options.words) <= len(files) or options.words[0].startswith('-'):
        raise UserError(f'{options.tool} takes {" ".join(files)} PROCESSES [options]')
    given, (number, *more) = options.words[: len(files)], options.words[len(files) :]
    if not number.isdecimal() or int(number) < 1:
        raise UserError(f'{number}: not a number of processes; it comes after {" ".join(files)}')
    tool = ['--module', 'crossformer_mm_command', options.tool, *given, *more, '--launcher', 'pytorch']
    os.environ.setdefault('OMP_NUM_THREADS', '1')  # torchrun would, in five lines of warning
    logging.getLogger('torch.distributed.elastic.multiprocessing.api').setLevel(logging.CRITICAL)
    try:
        torchrun.main([*meeting_place(), '--nproc_per_node', number, *tool])
    except ChildFailedError as error:
        raise UserError(failure_line(error.failures)) from error
    except SignalException as stop:
        raise (KeyboardInterrupt if stop.sigval == signal.SIGINT else Terminated) from stop


def meeting_place() -> list[str]:
    """Where the processes meet: on one machine at a free port, so that runs do not collide.

    Returns:
        torchrun's options for ``NNODES``, ``NODE_RANK``, ``MASTER_ADDR`` and ``PORT`` in the environment.
    """
    machines = os.environ.get('NNODES', '1')
    if machines == '1' and 'PORT' not in os.environ:
        return ['--standalone', '--local_addr', '127.0.0.1']
    return [
        *('--nnodes', machines),
        *('--node_rank', os.environ.get('NODE_RANK', '0')),
        *('--master_addr', os.environ.get('MASTER_ADDR', '127.0.0.1')),
        *('--master_port', os.environ.get('PORT', OWN_PORT)),
    ]


def failure_line(failures: dict[int, ProcessFailure]) -> str:
    """What became of the processes that failed.

    Args:
        failures: By rank, those among them that the launcher ended itself, by SIGTERM.

    Returns:
        One line, about the process that failed first; one that was killed said nothing itself.
    """

    def order(rank: int) -> tuple[bool, bool, int]:
        code = failures[rank].exitcode
        followed = code in (-signal.SIGTERM, LostProcessError.status)
        return followed, code > 0, failures[rank].timestamp

    first = min(failures, key=order)
    code = failures[first].exitcode
    if code > 0:
        return f'process {first} ended with status {code}, and the run with it; its error is above'
    name = signal.Signals(-code).name
    hint = ', as the system does when memory runs out' if name == 'SIGKILL' else ''
    return f'process {first} was ended by {name}{hint}, and the run with it'
