"""Where results go: whether they can, before there are any."""

import tempfile
from pathlib import Path

from .errors import UserError


def check_folder(option: str, folder: str | Path) -> None:
    """Check that a folder can be written to, or made; nothing is.

    Args:
        option: What the user named it by, for the message.
        folder: It may be missing, and the folders above it too.

    Raises:
        UserError: It is a file, or under one, or the system refuses to write there.
    """
    there = next(path for path in (Path(folder), *Path(folder).parents) if path.exists())
    if not there.is_dir():
        raise UserError(f'{option} {folder}: {there} is a file, not a folder; choose another place')
    try:
        with tempfile.TemporaryFile(dir=there):  # permissions alone do not tell, to root least of all
            return
    except OSError as error:
        raise UserError(
            f'{option} {folder}: cannot write in {there} ({error.strerror}); choose another place'
        ) from error
