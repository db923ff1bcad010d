#!/usr/bin/env python3
"""Write a model as an ONNX file: see --help."""

from crossformer_mm_command import script

if __name__ == '__main__':
    raise SystemExit(script('export'))
