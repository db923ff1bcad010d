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


def given_options(parser: argparse.ArgumentParser, options: argparse.Namespace) -> list[str]:
    """The words of a command that are not the defaults, without ``--resume`` and the launcher.

    Args:
        parser: The command's parser.
        options: The parsed options; others than the parser's are left out.
    """
    words = []
    for name, default in vars(parser.parse_args([options.config])).items():
        value = getattr(options, name)
        if value == default or name in ('config', 'resume', 'launcher', 'local_rank'):
            continue
        values = value if isinstance(value, list) else [] if value is True else [value]
        words += [f'--{name.replace("_", "-")}', *map(str, values)]
    return words
