"""Evaluate a checkpoint: see --help."""

import argparse

from crossformer_mm import cli, runs


def main(options: argparse.Namespace) -> None:
    """Run with the parsed options."""
    runs.evaluate(options)


if __name__ == '__main__':
    raise SystemExit(cli.run(runs.evaluation_parser(), main))
