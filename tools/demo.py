#!/usr/bin/env python3
"""Train and evaluate a narrow network on generated shapes, in minutes: ``make demo``, ``make demo-seg``."""

import argparse
from pathlib import Path

from crossformer_mm.engine.cli import run
from crossformer_mm.engine.demo import DEMOS, run_demo

PROJECT = Path(__file__).resolve().parents[1]
FOLDERS = {'mask_rcnn': 'demo', 'semantic_fpn': 'demo-seg'}


def build_parser() -> argparse.ArgumentParser:
    """The options."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('model', nargs='?', choices=DEMOS, default='mask_rcnn', help='which demo (mask_rcnn)')
    parser.add_argument('--short', action='store_true', help='a minute, to see that all of it runs')
    return parser


def main(options: argparse.Namespace) -> None:
    """Run the demo in a folder of its own under ``work_dirs``."""
    demo = DEMOS[options.model]
    recipe = demo.short if options.short else demo.full
    run_demo(demo, recipe, PROJECT, PROJECT / 'work_dirs' / FOLDERS[options.model])


if __name__ == '__main__':
    raise SystemExit(run(build_parser(), main))
