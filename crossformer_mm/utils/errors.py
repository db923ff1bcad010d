"""The error for invalid input."""

from .text import cut, printable

LONGEST = 3000  # characters of a message, in which names from files can have any length


class UserError(Exception):
    """Invalid user input; the one-line message names the bad value and the remedy.

    The commands print only the message and exit with status 1. Tracebacks are for bugs.
    """

    def __str__(self) -> str:
        """The message, in one line whatever text from files it contains."""
        return cut(printable(super().__str__()), LONGEST)
