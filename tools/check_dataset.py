#!/usr/bin/env python3
"""List all that is wrong with a data set, and draw what is in it: see --help."""

from crossformer_mm_command import script

if __name__ == '__main__':
    raise SystemExit(script('check'))
