"""Locks on folders, so that no two runs write to one at the same time."""

import fcntl
import os
import re
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import IO

from .errors import UserError

NAME = '.crossformer_mm.lock'
_PAUSE = 0.1  # seconds between attempts


@contextmanager
def locked(folder: Path, option: str, wait: bool = False) -> Iterator[None]:
    """Create a folder if necessary, and lock it for this process.

    The operating system releases the lock when the process ends, even by SIGKILL, and processes forked from
    this one do not hold it. On file systems without locks, the process that the file names is looked for.

    Args:
        folder: The folder.
        option: The option that chooses another folder, for the message.
        wait: Whether to wait for another process that has locked it.

    Raises:
        UserError: Another process has locked it, or it cannot be written.
    """
    path, file = folder / NAME, None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        while file is None or not _is_at(file, path):  # its last owner may have removed it just now
            file = path.open('a+', errors='replace')
            while not _lock(file):
                if wait:
                    time.sleep(_PAUSE)
                    continue
                owner = _owner(file)
                raise UserError(
                    f'{folder} is in use by {owner[0] if owner else "another process"}; use another {option}'
                )
    except OSError as error:
        raise UserError(f'{path}: cannot be written ({error.strerror})') from error
    with file:
        try:
            file.truncate(0)
            file.write(
                f'process {os.getpid()} on {socket.gethostname()} since {datetime.now():%Y-%m-%d %H:%M}'
            )
            file.flush()
            yield
        finally:
            if _is_at(file, path):
                path.unlink()


def _lock(file: IO[str]) -> bool:
    """Lock a file, unless another process has done so."""
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    except OSError:  # this file system has no locks; the processes of other machines cannot be seen
        owner = _owner(file)
        if owner and owner[2] == socket.gethostname() and int(owner[1]) != os.getpid():
            return not Path('/proc', owner[1]).exists()
    return True


def _owner(file: IO[str]) -> re.Match | None:
    """The process that has or had the lock, as it is written in the file."""
    file.seek(0)
    return re.match(r'process (\d+) on ([\w.-]+) since [\d: -]+', file.read())


def _is_at(file: IO[str], path: Path) -> bool:
    """Whether an open file still has its name. Opening it again would release the lock."""
    return path.exists() and os.path.samestat(os.fstat(file.fileno()), path.stat())
