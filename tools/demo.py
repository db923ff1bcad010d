#!/usr/bin/env python3
"""Train and evaluate a narrow network on generated shapes: ``make demo``, ``demo-seg`` or ``demo-cls``."""

from crossformer_mm.engine import cli
from crossformer_mm.engine.demo import demo, demo_parser
from crossformer_mm_command import safely

if __name__ == '__main__':
    raise SystemExit(safely(lambda: cli.run(demo_parser(), demo)))
