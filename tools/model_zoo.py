#!/usr/bin/env python3
"""Count all configs' models and write docs/model_zoo.md and model-index.yml: see --help."""

import argparse
from pathlib import Path

from crossformer_mm.engine import cli, model_index, model_zoo
from crossformer_mm.utils.errors import UserError

ROOT = Path(__file__).parents[1]


def parser() -> argparse.ArgumentParser:
    """The tool's options."""
    options = argparse.ArgumentParser(
        description='Write the page and the index of all models, counted anew (two minutes).'
    )
    options.add_argument('--configs', type=Path, default=ROOT / 'configs', help='the folder of configs')
    options.add_argument('--out', type=Path, default=ROOT / 'docs' / 'model_zoo.md', help='the page')
    options.add_argument('--index', type=Path, default=ROOT / 'model-index.yml', help='the index')
    return options


def main(options: argparse.Namespace) -> None:
    """Run with the parsed options."""
    for option, path in (('--out', options.out), ('--index', options.index)):
        if not path.parent.is_dir():
            raise UserError(f'{option} {path}: there is no folder {path.parent}')
        if path.is_dir():
            raise UserError(f'{option} {path}: is a folder; give the name of a file')
    for path, write in ((options.index, model_index.index), (options.out, model_zoo.page)):
        path.write_text(write(options.configs), encoding='utf-8')
        print(f'wrote {path}')


if __name__ == '__main__':
    raise SystemExit(cli.run(parser(), main))
