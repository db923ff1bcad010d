"""The error for invalid input, and how to recognise errors for a lack of memory."""

from .text import cut, printable

LONGEST = 3000  # characters of a message, in which names from files can have any length
# Parts of the messages of CUDA, its libraries, torch on CPUs, OpenCV and onnxruntime; numpy and Python raise
# MemoryError.
SIGNS = (
    'out of memory',
    "can't allocate memory",
    'insufficient memory',
    'failed to allocate',
    'alloc_failed',
    'bad_alloc',
)


class UserError(Exception):
    """Invalid user input; the one-line message names the bad value and the remedy.

    The commands print only the message and exit with status 1. Tracebacks are for bugs.
    """

    def __str__(self) -> str:
        """The message, in one line whatever text from files it contains."""
        return cut(printable(super().__str__()), LONGEST)


def ran_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that GPU or main memory ran out, also in worker processes."""
    text = str(error).lower()
    return isinstance(error, MemoryError) or any(sign in text for sign in SIGNS)
