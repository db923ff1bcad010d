"""The one kind of error that a user can mend, and its exit status."""


class UserError(Exception):
    """What the user gave does not work; the message says, in one line, what it was and what to do.

    The tools print the message alone and exit with ``status``. A traceback is for our own bugs.
    """

    status = 1


class LostProcessError(UserError):
    """Another process of the run ended; its error is the one to look for."""

    status = 75  # by which the launcher tells it from that error
