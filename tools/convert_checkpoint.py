#!/usr/bin/env python3
"""Convert a CrossFormer checkpoint of any origin for today's toolboxes: see --help."""

from crossformer_mm.engine import cli
from crossformer_mm.engine.convert import conversion_parser, convert

if __name__ == '__main__':
    raise SystemExit(cli.run(conversion_parser(), convert))
