"""Errors that the user can fix, and their exit status."""


class UserError(Exception):
    """Invalid user input. The message names it and the remedy in one line.

    The tools print only the message and exit with ``status``. Tracebacks are for bugs of this package.
    """

    status = 1


class LostProcessError(UserError):
    """Another process of the run ended; its error is the cause."""

    status = 75  # distinguishes it from that error for the launcher
