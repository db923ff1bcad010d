#!/usr/bin/env python3
"""Evaluate a checkpoint: see --help."""

from crossformer_mm.engine import cli, test

if __name__ == '__main__':
    raise SystemExit(cli.run(test.evaluation_parser(), test.evaluate))
