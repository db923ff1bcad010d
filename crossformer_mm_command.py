"""The command ``crossformer``, outside the package, which cannot be imported if the stack is broken."""

from __future__ import annotations  # so that an old Python gets as far as the doctor's report

import argparse
import difflib
import errno
import importlib
import os
import runpy
import select
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from types import FrameType

# For each command: its description, its module in crossformer_mm.engine, and the parser and function there.
COMMANDS = {
    'train': ('train a model', 'train', 'training_parser', 'train'),
    'test': ('evaluate a checkpoint', 'test', 'evaluation_parser', 'evaluate'),
    'infer': ('predict on images', 'infer', 'inference_parser', 'infer'),
    'explain': ('show what a prediction rests on', 'explain', 'explanation_parser', 'explain'),
    'export': ('write a model as an ONNX file', 'export', 'export_parser', 'export'),
    'convert': ('convert a checkpoint', 'convert', 'conversion_parser', 'convert'),
    'convert-dataset': (
        'write a dataset in another format, and divide it',
        'convert_dataset',
        'dataset_parser',
        'convert_dataset',
    ),
    'check': ('list all problems of a dataset', 'check', 'check_parser', 'check_dataset'),
    'flops': ('count parameters and multiply-adds', 'flops', 'flops_parser', 'print_flops'),
    'configs': ('list the configs, or copy one', 'configs', 'configs_parser', 'show_configs'),
    'doctor': ('check the installation', 'doctor', '', ''),
}

REMEDY = 'see docs/install.md, or docs/deployment.md for exported models, which run without PyTorch'
READER_GONE = 141  # what a shell reports for a program that SIGPIPE has ended


def main(words: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        words: Its name and its options, by default those of the process.

    Returns:
        The exit status.
    """
    return safely(lambda: _main(sys.argv[1:] if words is None else words))


def script(name: str) -> int:
    """Run a command for a script in ``tools/``, with the options of the process; returns the exit status."""
    return safely(lambda: run(name, sys.argv[1:], Path(sys.argv[0]).name))


def safely(command: Callable[[], int]) -> int:
    """Run a command whose standard output may be closed, lack characters, be full, or end early (``| head``).

    Args:
        command: Returns its exit status.

    Returns:
        That status, or :data:`READER_GONE` if nobody reads the output any more.
    """
    for number, name in enumerate(('stdin', 'stdout', 'stderr')):
        if getattr(sys, name) is None:  # closed: the next file to be opened would take its place
            os.open(os.devnull, os.O_RDWR)
            setattr(sys, name, open(number, 'w' if number else 'r'))  # noqa: PTH123, SIM115
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, 'reconfigure'):
            stream.reconfigure(errors='backslashreplace')
    try:
        status = command()
        sys.stdout.flush()
        return status
    except OSError as error:
        if isinstance(error, BrokenPipeError) and _reader_is_gone():
            return READER_GONE
        if error.errno != errno.ENOSPC or error.filename is not None:
            raise
        print(f'error: standard output: cannot be written ({error.strerror})', file=sys.stderr)
        return 1
    finally:
        _drop_unwritten()


def _reader_is_gone() -> bool:
    poll = select.poll()
    for number in (1, 2):
        poll.register(number, 0)
    return any(event & select.POLLERR for _, event in poll.poll(0))


def _drop_unwritten() -> None:
    """Write what is left, or drop it, so that Python does not complain when it exits."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def _main(words: Sequence[str]) -> int:
    name, *options = words or ['--help']
    if name in ('-h', '--help'):
        lines = [f'  {command:<15} {about}' for command, (about, *_) in COMMANDS.items()]
        print('\n'.join(['usage: crossformer COMMAND ..., with --help for the options', '', *lines]))
        return 0
    if name not in COMMANDS:
        close = ' or '.join(difflib.get_close_matches(name, COMMANDS)) or ', '.join(COMMANDS)
        print(f'error: unknown command {name}; did you mean {close}?', file=sys.stderr)
        return 2
    return run(name, options, f'crossformer {name}')


def run(name: str, options: Sequence[str], prog: str) -> int:
    """Run a command.

    Args:
        name: One of :data:`COMMANDS`.
        options: Its options.
        prog: The program's name in its help.

    Returns:
        The exit status.
    """
    about, module, parser_name, function = COMMANDS[name]
    if name == 'doctor':
        argparse.ArgumentParser(prog=prog, description=about).parse_args(options)
        (folder,) = find_spec('crossformer_mm').submodule_search_locations
        return runpy.run_path(f'{folder}/engine/doctor.py')['main']()
    try:
        with _signals_exit():
            loaded = importlib.import_module(f'crossformer_mm.engine.{module}')
            parser = getattr(loaded, parser_name)()
            parser.prog = prog
            cli = importlib.import_module('crossformer_mm.engine.cli')
            return cli.run(parser, getattr(loaded, function), options)
    except ModuleNotFoundError as error:
        if find_spec('torch') is not None:
            raise
        missing = 'PyTorch' if error.name in ('torch', 'mmengine') else error.name
        print(f'error: {prog}: needs {missing}, which is not installed; {REMEDY}', file=sys.stderr)
        return 1


@contextmanager
def _signals_exit() -> Iterator[None]:
    """Exit on Ctrl-C and SIGTERM, with one line, inside the block, except where ``cli.run`` handles them."""
    if threading.current_thread() is not threading.main_thread():  # only the main thread may handle signals
        yield
        return

    def stop(number: int, frame: FrameType | None) -> None:
        os.write(2, b'terminated\n' if number == signal.SIGTERM else b'interrupted\n')
        os._exit(128 + number)

    numbers = [n for n in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(n) is not signal.SIG_IGN]
    before = {number: signal.signal(number, stop) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


if __name__ == '__main__':
    raise SystemExit(main())
