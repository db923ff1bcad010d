#!/usr/bin/env python3
"""Train and evaluate a narrow network on generated shapes, in minutes: ``make demo``, ``make demo-seg``."""

from crossformer_mm.engine import cli
from crossformer_mm.engine.demo import demo, demo_parser

if __name__ == '__main__':
    raise SystemExit(cli.run(demo_parser(), demo))
