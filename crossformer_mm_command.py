"""The command ``crossformer``, outside the package, which cannot be imported if the stack is broken."""

import argparse
import difflib
import importlib
import os
import runpy
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from types import FrameType

# For each command: its description, its module in crossformer_mm.engine, and the parser and function there.
COMMANDS = {
    'train': ('train a model', 'train', 'training_parser', 'train'),
    'test': ('evaluate a checkpoint', 'test', 'evaluation_parser', 'evaluate'),
    'infer': ('predict on images', 'infer', 'inference_parser', 'infer'),
    'convert': ('convert a checkpoint', 'convert', 'conversion_parser', 'convert'),
    'check': ('list all problems of a dataset', 'check', 'check_parser', 'check_dataset'),
    'flops': ('count parameters and multiply-adds', 'flops', 'flops_parser', 'print_flops'),
    'configs': ('list the configs, or copy one', 'configs', 'configs_parser', 'show_configs'),
    'doctor': ('check the installation', 'doctor', '', ''),
}


def main(words: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        words: Its name and its options, by default those of the process.

    Returns:
        The exit status.
    """
    name, *options = (sys.argv[1:] if words is None else words) or ['--help']
    if name in ('-h', '--help'):
        lines = [f'  {command:<9} {about}' for command, (about, *_) in COMMANDS.items()]
        print('\n'.join(['usage: crossformer COMMAND …, with --help for the options', '', *lines]))
        return 0
    if name not in COMMANDS:
        close = ' or '.join(difflib.get_close_matches(name, COMMANDS)) or ', '.join(COMMANDS)
        print(f'error: unknown command {name}; did you mean {close}?', file=sys.stderr)
        return 2
    return run(name, options, f'crossformer {name}')


def script(name: str) -> int:
    """Run a command for a script in ``tools/``, with the options of the process; returns the exit status."""
    return run(name, sys.argv[1:], Path(sys.argv[0]).name)


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
    with _signals_exit():
        loaded = importlib.import_module(f'crossformer_mm.engine.{module}')
        parser = getattr(loaded, parser_name)()
        parser.prog = prog
        cli = importlib.import_module('crossformer_mm.engine.cli')
        return cli.run(parser, getattr(loaded, function), options)


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
