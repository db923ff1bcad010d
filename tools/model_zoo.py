"""Count all configs' models and write docs/model_zoo.md: see --help."""

import argparse
from pathlib import Path

from crossformer_mm import cli, model_zoo
from crossformer_mm.errors import UserError

ROOT = Path(__file__).parents[1]


def parser() -> argparse.ArgumentParser:
    """The tool's options."""
    options = argparse.ArgumentParser(description='Write the page of all models, counted anew (two minutes).')
    options.add_argument('--configs', type=Path, default=ROOT / 'configs', help='the folder of configs')
    options.add_argument('--out', type=Path, default=ROOT / 'docs' / 'model_zoo.md', help='the page')
    return options


def main(options: argparse.Namespace) -> None:
    """Run with the parsed options."""
    if not options.out.parent.is_dir():
        raise UserError(f'--out {options.out}: there is no folder {options.out.parent}')
    if options.out.is_dir():
        raise UserError(f'--out {options.out}: is a folder; give the name of a file')
    options.out.write_text(model_zoo.page(options.configs), encoding='utf-8')
    print(f'wrote {options.out}')


if __name__ == '__main__':
    raise SystemExit(cli.run(parser(), main))
