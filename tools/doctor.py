#!/usr/bin/env python3
"""Say what of the installation works, and what to do where it does not; status 1 if anything failed."""

import argparse
import runpy
from pathlib import Path

# By its path: where the stack is broken, the package itself does not import.
DOCTOR = Path(__file__).resolve().parents[1] / 'crossformer_mm' / 'engine' / 'doctor.py'

if __name__ == '__main__':
    argparse.ArgumentParser(description=__doc__).parse_args()
    raise SystemExit(runpy.run_path(str(DOCTOR))['main']())
