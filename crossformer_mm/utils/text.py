"""Make text from files safe for messages and pictures."""

from collections.abc import Iterable

# Characters of a name: in a list in a message; in a picture or table.
LONGEST_LISTED, LONGEST_SHOWN = 200, 48


def printable(text: str) -> str:
    """Escape characters that break a line, control a terminal or reorder text, as ``repr`` does."""
    return ''.join(c if c.isprintable() else c.encode('unicode_escape').decode() for c in text)


def printable_lines(text: str) -> str:
    """Like :func:`printable`, for text of several lines."""
    return '\n'.join(map(printable, text.split('\n')))


def cut(text: str, most: int) -> str:
    """Replace the middle of a text by an ellipsis if it has more than ``most`` characters."""
    return text if len(text) <= most else f'{text[: most // 2]}…{text[len(text) - (most - 1) // 2 :]}'


def shorten(names: Iterable[str], limit: int = 4) -> str:
    """List names in a message, long ones cut: the first ``limit``, and how many more there are."""
    names = [cut(printable(name), LONGEST_LISTED) for name in names]
    more = f' and {len(names) - limit} more' if len(names) > limit else ''
    return ', '.join(names[:limit]) + more


def short_name(name: str) -> str:
    """A name for a picture or a table: printable, and without its middle if it is too long."""
    return cut(printable(name), LONGEST_SHOWN)


def escape_mathtext(name: str) -> str:
    """Escape and cut a name for matplotlib.

    Matplotlib reads text between two dollar signs as a formula, and hides labels with an underscore in front.
    """
    name = short_name(name).replace('$', r'\$')
    return f' {name}' if name.startswith('_') else name
