"""End processes together."""

import ctypes
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

PR_SET_PDEATHSIG = 1  # of Linux's prctl: the signal to get when the parent dies


def end_with_parent(parent: int | None = None) -> None:
    """Let Linux end this process by SIGKILL when its parent has ended, however that happens.

    Args:
        parent: The launcher's process id, if it is known, of the parent or one of its parents: if it has
            already ended, this process ends at once.
    """
    if sys.platform == 'linux':
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if parent is not None and parent not in _ancestors():
            os.kill(os.getpid(), signal.SIGKILL)


def _ancestors() -> Iterator[int]:
    """The parent's process id, its parent's, and so on; without that of process 1, which adopts orphans."""
    process = os.getppid()
    with suppress(OSError):  # one has just ended
        while process > 1:
            yield process
            status = Path(f'/proc/{process}/stat').read_text()
            process = int(status.rpartition(')')[2].split()[1])  # the name in brackets may contain anything
