"""Make text from files safe for messages and pictures."""

from collections.abc import Iterable

LONGEST = 200  # characters of one name in a list


def printable(text: str) -> str:
    """Replace characters that would break a line or control a terminal with question marks."""
    return ''.join(character if character.isprintable() else '?' for character in text)


def shorten(names: Iterable[str], limit: int = 4) -> str:
    """List names in a message: the first ``limit``, without their far ends, and how many more there are."""
    names = [name if len(name) <= LONGEST else f'{name[:LONGEST]}…' for name in map(printable, names)]
    more = f' and {len(names) - limit} more' if len(names) > limit else ''
    return ', '.join(names[:limit]) + more


def escape_mathtext(name: str) -> str:
    """Escape a name for matplotlib, which reads text between two dollar signs as a formula."""
    return printable(name).replace('$', r'\$')
