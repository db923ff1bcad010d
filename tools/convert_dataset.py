#!/usr/bin/env python3
"""Write a dataset in another format, and divide it into splits: see --help."""

from crossformer_mm_command import script

if __name__ == '__main__':
    raise SystemExit(script('convert-dataset'))
