#!/usr/bin/env python3
"""Check the installation: list what works, and the remedy for each problem (exit status 1)."""

import argparse
import runpy
from pathlib import Path

# Run by its path, because the package may not be installed, or may not import if the stack is broken.
DOCTOR = Path(__file__).resolve().parents[1] / 'crossformer_mm' / 'engine' / 'doctor.py'

if __name__ == '__main__':
    argparse.ArgumentParser(description=__doc__).parse_args()
    raise SystemExit(runpy.run_path(str(DOCTOR))['main']())
