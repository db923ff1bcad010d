#!/usr/bin/env python3
"""Predict on images with a checkpoint: see --help."""

from crossformer_mm.engine import cli
from crossformer_mm.engine.infer import infer, inference_parser

if __name__ == '__main__':
    raise SystemExit(cli.run(inference_parser(), infer))
