#!/usr/bin/env python3
"""List all that is wrong with a data set, and draw what is in it: see --help."""

from crossformer_mm import cli, dataset_check

if __name__ == '__main__':
    raise SystemExit(cli.run(dataset_check.check_parser(), dataset_check.check_dataset))
