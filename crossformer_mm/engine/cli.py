"""Shared command-line behaviour: exit statuses, one-line errors, ``--debug``."""

import argparse
import atexit
import logging
import multiprocessing
import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

from ..utils.errors import UserError
from ..utils.files import MACHINE_ERRORS, write_error
from ..utils.processes import end_with_parent
from ..utils.swallowing import swallows_errors
from ..utils.text import printable

OTHERS_WAIT = 3.0  # seconds that all processes except a machine's first wait before they print an error
RETRY = 0.05  # seconds until a signal that would be swallowed is tried again


class Terminated(KeyboardInterrupt):
    """Raised on SIGTERM, and handled like Ctrl-C."""


def run(
    parser: argparse.ArgumentParser,
    main: Callable[[argparse.Namespace], object],
    argv: Sequence[str] | None = None,
) -> int:
    """Parse ``argv``, call ``main`` with the options, and return the exit status.

    A process of a distributed run exits by :func:`exit_immediately`. An error that all of them raise is
    printed once, by the first: the launcher ends the others while they wait.

    Args:
        parser: The options of the command; ``--debug`` is added to them.
        main: The command; may return an exit status; any other result means success.
        argv: The arguments, by default those of this process.

    Returns:
        ``main``'s status; 1 after a :class:`UserError`, printed to stderr as one line, or raised with its
        traceback if ``--debug`` is given; 130 after Ctrl-C and 143 after SIGTERM, also with one line.
    """
    # Matplotlib warns of each character of a name that its font lacks, such as Chinese, and draws a box.
    warnings.filterwarnings('ignore', message='Glyph .* missing from')
    parser.error = lambda message: (_wait_for_first(), type(parser).error(parser, printable(message)))
    parser.add_argument('--debug', action='store_true', help='show tracebacks of expected errors')
    options = parser.parse_args(argv)
    status = 1  # if Python itself reports an error
    if getattr(options, 'launcher', 'none') != 'none' and 'RANK' in os.environ:
        atexit.register(lambda: exit_immediately(status))
        launcher = os.environ.get('CROSSFORMER_LAUNCHER_PID')  # from tools/dist_run.sh
        end_with_parent(int(launcher) if launcher else None)
    try:
        with _signals_raise():
            result = main(options)
            status = result if isinstance(result, int) else 0
    except (UserError, OSError) as error:
        fault = isinstance(error, OSError) and error.errno not in MACHINE_ERRORS
        if options.debug or fault:
            raise
        _wait_for_first()
        message = write_error(error) if isinstance(error, OSError) else error
        print(f'error: {printable(str(message))}', file=sys.stderr)
        status = 1
    except KeyboardInterrupt as stop:
        word, status = ('terminated', 143) if isinstance(stop, Terminated) else ('interrupted', 130)
        if _is_first():
            print(*[word, *stop.args], sep='; ', file=sys.stderr)
    return status


def _is_first() -> bool:
    """Whether this process is the first of a run on this machine, or the only one."""
    return os.environ.get('LOCAL_RANK', '0') == '0'


def _wait_for_first() -> None:
    if not _is_first():
        time.sleep(OTHERS_WAIT)


def exit_immediately(status: int) -> NoReturn:
    """Exit without finalising the interpreter, which can abort a process that used gloo.

    DistributedDataParallel keeps the process group alive after ``destroy_process_group``. A gloo thread that
    releases tensors while the interpreter finalises then asks for the GIL, is ended by Python, and takes the
    process with it: "terminate called without an active exception" (SIGABRT), after a run without an error.

    Register it with ``atexit`` before the run, so that exit functions which the run registers, such as those
    of logging services, are called first. It then does what Python would do after them: it flushes log files
    and streams, and terminates worker processes.

    Args:
        status: The exit status.
    """
    try:
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
        for worker in multiprocessing.active_children():
            worker.terminate()
    finally:
        os._exit(status)


def _interrupt_of_import(error: BaseException | None) -> KeyboardInterrupt | None:
    """What an error comes from, if the initialisation of an extension module made an ImportError of it."""
    while error is not None:
        cause = error.__cause__ or error.__context__
        if isinstance(error, ImportError) and isinstance(cause, KeyboardInterrupt):
            return cause
        error = cause
    return None


@contextmanager
def _signals_raise() -> Iterator[None]:
    """Raise KeyboardInterrupt on Ctrl-C, and :class:`Terminated` on SIGTERM, inside the block.

    A signal that comes where other code would catch every error, and go on, is raised after that code.
    """
    if threading.current_thread() is not threading.main_thread():  # only the main thread may handle signals
        yield
        return
    process = os.getpid()
    waiting: list[int] = []

    def stop(number: int, frame: FrameType | None) -> None:
        forked = os.getpid() != process
        if forked and number == signal.SIGTERM:  # a worker, terminated before it has set its own handler
            os._exit(143)
        if not forked and swallows_errors(frame):
            waiting[:] = [number]
            # again and again: one alarm could come just before a call that waits
            signal.setitimer(signal.ITIMER_REAL, RETRY, RETRY)
            return
        if waiting:
            waiting.clear()
            signal.setitimer(signal.ITIMER_REAL, 0)
        raise Terminated if number == signal.SIGTERM else KeyboardInterrupt

    def retry(number: int, frame: FrameType | None) -> None:
        if waiting:
            stop(waiting[0], frame)

    handlers = {signal.SIGTERM: stop, signal.SIGALRM: retry}
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:  # as in jobs in the background
        handlers[signal.SIGINT] = stop
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield
    except Exception as error:
        if interrupt := _interrupt_of_import(error):
            raise interrupt from error
        raise
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in before.items():
            signal.signal(number, handler)
