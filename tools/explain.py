#!/usr/bin/env python3
"""Show what a prediction rests on: see --help."""

from crossformer_mm_command import script

if __name__ == '__main__':
    raise SystemExit(script('explain'))
