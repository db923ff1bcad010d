#!/usr/bin/env python3
"""Measure speed and memory of networks side by side: see --help."""

from crossformer_mm.engine import benchmark, cli

if __name__ == '__main__':
    raise SystemExit(cli.run(benchmark.benchmark_parser(), benchmark.run_benchmark))
