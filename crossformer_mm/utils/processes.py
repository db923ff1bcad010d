"""End processes together."""

import ctypes
import os
import signal
import sys
from pathlib import Path

PR_SET_PDEATHSIG = 1  # of Linux's prctl: the signal to get when the parent dies


def end_with_parent(parent: int | None = None) -> None:
    """Let Linux end this process by SIGKILL when its parent has ended, however that happens.

    Args:
        parent: The launcher's process id, if it is known: if it has already ended, this process ends at once.
    """
    if sys.platform == 'linux':
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if parent is not None and not Path('/proc', str(parent)).exists():
            os.kill(os.getpid(), signal.SIGKILL)
