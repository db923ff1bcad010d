#!/usr/bin/env python3
"""List all problems of a dataset, and draw samples of it: see --help."""

from crossformer_mm_command import script

if __name__ == '__main__':
    raise SystemExit(script('check'))
