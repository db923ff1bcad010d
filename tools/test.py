#!/usr/bin/env python3
"""Evaluate a checkpoint: see --help."""

from crossformer_mm.engine import cli, runs

if __name__ == '__main__':
    raise SystemExit(cli.run(runs.evaluation_parser(), runs.evaluate))
