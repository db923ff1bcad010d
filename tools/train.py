"""Train a model on COCO-format data: see --help, and configs/ for what there is."""

import argparse

from crossformer_mm import cli, runs


def main(options: argparse.Namespace) -> None:
    """Run with the parsed options."""
    runs.train(options)


if __name__ == '__main__':
    raise SystemExit(cli.run(runs.training_parser(), main))
