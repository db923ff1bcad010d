#!/usr/bin/env python3
"""Check the installation: what works, and what to do where something does not (exit status 1)."""

import argparse
import runpy
from pathlib import Path

# By its path, because the package may not be installed, or not be importable where the stack is broken.
DOCTOR = Path(__file__).resolve().parents[1] / 'crossformer_mm' / 'engine' / 'doctor.py'

if __name__ == '__main__':
    argparse.ArgumentParser(description=__doc__).parse_args()
    raise SystemExit(runpy.run_path(str(DOCTOR))['main']())
