"""What every command line of the project does alike: exit statuses, one-line errors, ``--debug``."""

import argparse
import sys
from collections.abc import Callable, Sequence

from .errors import UserError


def run(
    parser: argparse.ArgumentParser,
    main: Callable[[argparse.Namespace], int | None],
    argv: Sequence[str] | None = None,
) -> int:
    """Parse ``argv``, call ``main`` with the options, and return the exit status.

    Args:
        parser: The tool's options; ``--debug`` is added to them.
        main: The tool; may return an exit status, None means success.
        argv: The words of the command line, by default the process's own.

    Returns:
        ``main``'s status; 1 after a :class:`UserError`, whose message goes to stderr in one line (with
        ``--debug``, it is raised with its traceback instead); 130 after Ctrl-C.
    """
    parser.add_argument('--debug', action='store_true', help='show tracebacks of expected errors')
    options = parser.parse_args(argv)
    try:
        return main(options) or 0
    except UserError as error:
        if options.debug:
            raise
        print(f'error: {error}', file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print('interrupted', file=sys.stderr)
        return 130
