#!/usr/bin/env python3
"""Train a model on COCO-format data or label maps: see --help."""

from crossformer_mm_command import script

if __name__ == '__main__':
    raise SystemExit(script('train'))
