#!/usr/bin/env python3
"""Evaluate a checkpoint: see --help."""

from crossformer_mm_command import script

if __name__ == '__main__':
    raise SystemExit(script('test'))
