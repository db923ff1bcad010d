#!/usr/bin/env python3
"""Measure speed and memory of networks side by side: see --help."""

from crossformer_mm.engine import cli
from crossformer_mm.engine.benchmark.run import benchmark, benchmark_parser

if __name__ == '__main__':
    raise SystemExit(cli.run(benchmark_parser(), benchmark))
