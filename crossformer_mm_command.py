"""The command ``crossformer``. Beside the package, which does not import where the stack is broken."""

import argparse
import difflib
import importlib
import runpy
import sys
from collections.abc import Sequence
from importlib.util import find_spec

# By its name: what it does, the module that it is in, and there the function for its options and it itself.
COMMANDS = {
    'train': ('train a model', 'runs', 'training_parser', 'train'),
    'test': ('evaluate a checkpoint', 'runs', 'evaluation_parser', 'evaluate'),
    'infer': ('predict on images', 'infer', 'inference_parser', 'infer'),
    'convert': ('convert a checkpoint', 'convert', 'conversion_parser', 'convert'),
    'check': ('list all that is wrong with a data set', 'check', 'check_parser', 'check_dataset'),
    'flops': ('count parameters and multiply-adds', 'flops', 'flops_parser', 'print_flops'),
    'configs': ('list the configs, or copy one', 'configs', 'configs_parser', 'show_configs'),
    'doctor': ('say what of the installation works', 'doctor', '', ''),
}


def main(words: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        words: Its name and its options, by default the process's own.

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
        print(f'error: {name}: no such command; did you mean {close}?', file=sys.stderr)
        return 2
    about, module, parser, function = COMMANDS[name]
    if name == 'doctor':
        argparse.ArgumentParser(prog='crossformer doctor', description=about).parse_args(options)
        (folder,) = find_spec('crossformer_mm').submodule_search_locations
        return runpy.run_path(f'{folder}/engine/doctor.py')['main']()
    loaded = importlib.import_module(f'crossformer_mm.engine.{module}')
    parser = getattr(loaded, parser)()
    parser.prog = f'crossformer {name}'
    return importlib.import_module('crossformer_mm.engine.cli').run(
        parser, getattr(loaded, function), options
    )


if __name__ == '__main__':
    raise SystemExit(main())
