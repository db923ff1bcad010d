"""A bar on stderr for work that a person waits for."""

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


def progress_bar(disable: bool = False) -> Progress:
    """A bar with counts and the time that is left.

    Args:
        disable: Show nothing, for work that is done before a bar is drawn.

    Returns:
        The bar, to be used in a ``with``.
    """
    return Progress(
        TextColumn('{task.description}'),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn('ETA'),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        disable=disable,
    )
