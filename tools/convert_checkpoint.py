#!/usr/bin/env python3
"""Convert a CrossFormer checkpoint of any origin for the current toolboxes: see --help."""

from crossformer_mm_command import script

if __name__ == '__main__':
    raise SystemExit(script('convert'))
