"""``crossformer configs``: list this project's own configs, copy one, or print its path."""

import argparse
import ast
from pathlib import Path

from ..utils.errors import UserError
from ..utils.files import write_atomically
from ..version import __version__
from .config import config_folder, load_config, own_config


def copy_config(name: str) -> Path:
    """Copy one of this project's own configs into the working folder, as a single file without base configs.

    Args:
        name: Its name.

    Returns:
        The new file.

    Raises:
        UserError: There is no such config, it is invalid, or the file exists or cannot be written.
    """
    source = own_config(name)
    text = load_config(source).pretty_text
    heading = f'"""{_title(source)}\n\nFrom crossformer_mm {__version__}, as a single file.\n"""\n\n'
    path = Path(source.name)
    if path.exists() or path.is_symlink():
        raise UserError(f'{path}: exists and was not changed; move it, or use another folder')
    write_atomically(path, lambda part: part.write_text(heading + text, 'utf-8'))
    return path


def _title(path: Path) -> str:
    """The first line of a config's docstring; empty if the file does not parse (it may be being edited)."""
    try:
        text = ast.get_docstring(ast.parse(path.read_bytes()))
    except (SyntaxError, ValueError):
        text = None
    return (text or path.stem).partition('\n')[0]


def configs_parser() -> argparse.ArgumentParser:
    """The options of ``crossformer configs``."""
    parser = argparse.ArgumentParser(description="List this project's configs, copy one, or print its path.")
    what = parser.add_mutually_exclusive_group()
    what.add_argument('--copy', metavar='NAME', help='copy it to NAME.py here, as a single file to edit')
    what.add_argument('--path', metavar='NAME', help='print its path, for the _base_ of your own config')
    return parser


def show_configs(options: argparse.Namespace) -> None:
    """List the configs, copy one, or print its path.

    Args:
        options: The options parsed by :func:`configs_parser`.

    Raises:
        UserError: There is no such config, or it cannot be copied.
    """
    if options.copy is not None:
        path = copy_config(options.copy)
        print(f'wrote {path}; train it with: crossformer train {path} …')
    elif options.path is not None:
        print(own_config(options.path))
    else:
        files = sorted(config_folder().glob('*.py'))
        print('\n'.join(f'{path.stem:<36}{_title(path)}' for path in files))
