"""Count the parameters and multiply-adds of a config's model, whole and in parts: see --help."""

import argparse

from crossformer_mm import cli
from crossformer_mm.complexity import RULE, build_model, count, table, usual_shape
from crossformer_mm.config.run import load_config


def parser() -> argparse.ArgumentParser:
    """The tool's options."""
    options = argparse.ArgumentParser(
        description='Count parameters and multiply-adds of a model.', epilog=RULE
    )
    options.add_argument('config', help='the config file')
    options.add_argument(
        '--shape',
        nargs=2,
        type=int,
        metavar=('H', 'W'),
        help='height and width of the image in pixels (800 1280 for detectors, 1024 1024 for segmentors)',
    )
    options.add_argument(
        '--cfg-options',
        nargs='+',
        default=[],
        metavar='KEY=VALUE',
        help='settings to change, e.g. model.backbone.group_sizes=(14,14,7,7)',
    )
    return options


def main(options: argparse.Namespace) -> None:
    """Run with the parsed options."""
    cfg = load_config(options.config, options.cfg_options)
    height, width = options.shape or usual_shape(cfg)
    parts = count(build_model(cfg), height, width)
    print(f'{options.config}, one image of {height}×{width} pixels\n\n{table(parts)}\n\n{RULE}')


if __name__ == '__main__':
    raise SystemExit(cli.run(parser(), main))
