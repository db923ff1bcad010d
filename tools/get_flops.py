#!/usr/bin/env python3
"""Count the parameters and multiply-adds of a config's model and of its parts: see --help."""

from crossformer_mm_command import script

if __name__ == '__main__':
    raise SystemExit(script('flops'))
