#!/usr/bin/env python3
"""Predict on images with a checkpoint: see --help."""

from crossformer_mm_command import script

if __name__ == '__main__':
    raise SystemExit(script('infer'))
