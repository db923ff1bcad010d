#!/usr/bin/env python3
"""Count the parameters and multiply-adds of a config's model, whole and in parts: see --help."""

from crossformer_mm.engine import cli
from crossformer_mm.engine.flops import flops_parser, print_flops

if __name__ == '__main__':
    raise SystemExit(cli.run(flops_parser(), print_flops))
