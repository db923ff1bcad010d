"""Train and evaluate Mask R-CNN on generated shapes, in a few minutes on two cores: ``make demo``."""

import argparse
from pathlib import Path

from crossformer_mm.cli import run
from crossformer_mm.demo import FULL, SHORT, run_demo

PROJECT = Path(__file__).resolve().parents[1]


def build_parser() -> argparse.ArgumentParser:
    """The options."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--short', action='store_true', help='a minute, to see that all of it runs')
    return parser


def main(options: argparse.Namespace) -> None:
    """Run the demo in ``work_dirs/demo``."""
    run_demo(SHORT if options.short else FULL, PROJECT, PROJECT / 'work_dirs' / 'demo')


if __name__ == '__main__':
    raise SystemExit(run(build_parser(), main))
