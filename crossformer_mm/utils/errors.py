"""The error for invalid input."""


class UserError(Exception):
    """Invalid user input; the one-line message names the bad value and the remedy.

    The commands print only the message and exit with status 1. Tracebacks are for bugs.
    """
