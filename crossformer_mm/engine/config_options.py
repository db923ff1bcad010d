"""The options that choose and change a config, in all commands."""

import argparse

CONFIG_HELP = 'a config file, or the name of one that "crossformer configs" lists'


def add_cfg_options(parser: argparse.ArgumentParser) -> None:
    """Add ``--cfg-options``, which changes any setting of the config."""
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        default=[],
        metavar='KEY=VALUE',
        help='settings to change in the config, e.g. train_cfg.max_epochs=24',
    )
