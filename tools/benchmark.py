#!/usr/bin/env python3
"""Measure speed and memory of networks side by side: see --help."""

from crossformer_mm.engine import benchmark, cli
from crossformer_mm_command import safely

if __name__ == '__main__':
    raise SystemExit(safely(lambda: cli.run(benchmark.benchmark_parser(), benchmark.run_benchmark)))
