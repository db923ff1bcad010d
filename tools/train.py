#!/usr/bin/env python3
"""Train a model on COCO-format data or label maps: see --help, and configs/ for what there is."""

from crossformer_mm.engine import cli, train

if __name__ == '__main__':
    raise SystemExit(cli.run(train.training_parser(), train.train))
