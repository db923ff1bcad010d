"""Progress bars on stderr."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

MANY = 1000  # fewer files are read within seconds and need no bar


def progress_bar(disable: bool = False) -> Progress:
    """Make a progress bar with counts and the remaining time.

    Args:
        disable: Show no bar, for short work.

    Returns:
        The bar, to be used in a ``with`` statement.
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


def map_in_threads(
    function: Callable[..., Any], *sequences: Sequence[Any], description: str
) -> Iterator[Any]:
    """Apply a function to many files in threads, with a progress bar if there are more than :data:`MANY`.

    Image decoders release the interpreter lock, so threads share the work. Forked processes would hang where
    OpenCV has already started threads.

    Args:
        function: Takes one item of each sequence.
        *sequences: Sequences of equal length.
        description: The label of the bar.

    Yields:
        The results, in order.
    """
    count = len(sequences[0])
    pool = ThreadPoolExecutor()
    try:
        results = pool.map(function, *sequences)
        with progress_bar(disable=count < MANY) as progress:
            yield from progress.track(results, total=count, description=description)
    finally:  # also after Ctrl-C
        pool.shutdown(wait=False, cancel_futures=True)
