#!/usr/bin/env python3
"""List all that is wrong with a data set, and draw what is in it: see --help."""

from crossformer_mm.engine import check as dataset_check
from crossformer_mm.engine import cli

if __name__ == '__main__':
    raise SystemExit(cli.run(dataset_check.check_parser(), dataset_check.check_dataset))
