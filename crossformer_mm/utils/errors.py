"""The one kind of error that a user can mend, and its exit status."""


class UserError(Exception):
    """What the user gave does not work; the message says, in one line, what it was and what to do.

    The tools print the message alone and exit with status 1. A traceback is for our own bugs.
    """
