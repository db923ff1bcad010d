#!/usr/bin/env python3
"""Check the installation: list what works, and the remedy for each problem (exit status 1)."""

import argparse
import runpy
from pathlib import Path

# Run by their paths, because the package may not be installed, or may not import if the stack is broken.
ROOT = Path(__file__).resolve().parents[1]
DOCTOR, COMMAND = ROOT / 'crossformer_mm' / 'engine' / 'doctor.py', ROOT / 'crossformer_mm_command.py'

if __name__ == '__main__':
    argparse.ArgumentParser(description=__doc__).parse_args()
    safely = runpy.run_path(str(COMMAND))['safely']
    raise SystemExit(safely(runpy.run_path(str(DOCTOR))['main']))
