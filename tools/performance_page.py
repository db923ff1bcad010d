#!/usr/bin/env python3
"""Measure sections of docs/performance.md anew and write the page: see --help."""

import argparse
from pathlib import Path

from crossformer_mm.engine import cli
from crossformer_mm.engine.benchmark.page import SECTIONS, measure, page
from crossformer_mm.utils.errors import UserError

ROOT = Path(__file__).resolve().parents[1]


def parser() -> argparse.ArgumentParser:
    """The tool's options."""
    options = argparse.ArgumentParser(
        description='Write the page of speed and memory; sections are measured anew where they are named.'
    )
    options.add_argument('sections', nargs='*', help=f'of {", ".join(SECTIONS)}; none: write the page alone')
    options.add_argument('--all', action='store_true', help='measure all of them')
    options.add_argument('--out', type=Path, default=ROOT / 'docs' / 'performance.md', help='the page')
    return options


def main(options: argparse.Namespace) -> None:
    """Run with the parsed options; what is measured goes into a folder of the page's name, beside it."""
    if not options.out.parent.is_dir():
        raise UserError(f'--out {options.out}: there is no folder {options.out.parent}; make it first')
    folder = options.out.resolve().with_suffix('')
    measure([*SECTIONS] if options.all else options.sections, folder, ROOT / 'tools' / 'benchmark.py')
    text = page(folder, folder.name)
    options.out.write_text(text, encoding='utf-8')
    print(f'wrote {options.out}')


if __name__ == '__main__':
    raise SystemExit(cli.run(parser(), main))
