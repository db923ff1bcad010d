#!/usr/bin/env python3
"""Train or evaluate in several processes: dist_train.sh and dist_test.sh call it."""

from crossformer_mm.engine import cli, launch

if __name__ == '__main__':
    raise SystemExit(cli.run(launch.launcher_parser(), launch.launch))
