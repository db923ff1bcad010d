"""Names from files as text in pictures."""

from ..checkpoint.names import printable


def escape_mathtext(name: str) -> str:
    """A name as matplotlib draws it: between two dollars it would read, or refuse, mathematics.

    Args:
        name: From a file of the user's.

    Returns:
        The text to draw.
    """
    return printable(name).replace('$', r'\$')
