"""Find files, and write them atomically."""

import errno
import fcntl
import hashlib
import os
import secrets
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from .errors import UserError

CHUNK = 1 << 20  # bytes read at a time
DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# Errors that are the machine's and not this project's.
MACHINE_ERRORS = (*DISK_FULL, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENAMETOOLONG, errno.EIO)
DIGEST_DIGITS = 8  # digits of the SHA-256 in a file's name


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open('rb') as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def files_in(folder: str | Path) -> list[Path]:
    """The regular files in a folder and its subfolders, sorted.

    Hidden files and folders, which other programs create, are left out. Linked folders are entered, but no
    folder twice, so that links cannot loop; a folder itself comes before links to it.

    Args:
        folder: The folder; if it does not exist, it has no files.

    Raises:
        UserError: A folder cannot be listed.
    """
    folders, links, seen, files = [str(folder)], [], set(), []
    while folders or links:
        parent = folders.pop() if folders else links.pop(0)
        try:
            status = os.stat(parent)  # noqa: PTH116 # Path objects take twice as long for many files
            if (status.st_dev, status.st_ino) not in seen:
                seen.add((status.st_dev, status.st_ino))
                for entry in os.scandir(parent):
                    if entry.name.startswith('.'):
                        continue
                    with suppress(OSError):  # a link to itself, or to where one may not look
                        if entry.is_dir():
                            (links if entry.is_symlink() else folders).append(entry.path)
                        elif entry.is_file():  # no pipe, socket or broken link
                            files.append(Path(entry.path))
        except FileNotFoundError:
            continue
        except OSError as error:
            raise UserError(f'{parent} cannot be listed: {error.strerror}') from error
    return sorted(files)


def write_atomically(
    path: Path,
    save: Callable[[Path], None],
    *,
    digest_in_name: bool = False,
    overwrite: bool = False,
) -> Path:
    """Let ``save`` write a temporary file, and rename it only when it is completely on disk.

    A process that is killed while writing leaves at most a hidden ``.part`` file.

    Args:
        path: The file's name.
        save: Called with the path to write to. If it raises an error, no file remains.
        digest_in_name: Append the first digits of the file's SHA-256 to its stem, as OpenMMLab does.
        overwrite: Replace an existing file.

    Returns:
        The file's final name.

    Raises:
        UserError: The file cannot be written, or exists and must not be overwritten.
    """
    # 60 characters have at most 240 bytes, of the 255 that a name may have
    part = path.with_name(f'.{path.name[:60]}.{secrets.token_hex(4)}.part')
    try:
        with part.open('xb') as held:
            with suppress(OSError):  # some file systems have no locks
                fcntl.flock(held, fcntl.LOCK_EX)  # for remove_parts, until this process ends
            mode = part.stat().st_mode
            save(part)
            part.chmod(mode)  # safetensors replaces it with a file that only the user can read
            _flush(part)
            if digest_in_name:
                path = path.with_stem(f'{path.stem}-{sha256_of(part)[:DIGEST_DIGITS]}')
            check_free(path, overwrite)
            part.replace(path)
            _flush(path.parent)
    except OSError as error:
        raise UserError(write_error(error, path)) from error
    finally:
        with suppress(OSError):  # on a read-only disk
            part.unlink()
    return path


def write_error(error: OSError, path: str | Path | None = None) -> str:
    """Describe in one line that a file cannot be written, and what to do.

    Args:
        error: Python's error.
        path: The file, if the error does not name it.
    """
    remedy = '; free some space' if error.errno in DISK_FULL else ''
    return f'{path or error.filename or "the output"}: cannot be written ({error.strerror or error}){remedy}'


def remove_parts(folder: Path) -> None:
    """Remove the temporary files that killed processes left in a folder, not those of running ones."""
    for part in folder.glob(f'.?*.{"[0-9a-f]" * 8}.part'):
        with suppress(OSError), part.open('rb') as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # fails if a process is writing it
            part.unlink()


def check_free(path: Path, overwrite: bool) -> None:
    """Raise a :class:`UserError` if ``path`` exists and must not be overwritten."""
    if path.is_dir():
        raise UserError(f'{path}: is a folder; give the name of a file')
    if path.exists() and not overwrite:
        raise UserError(f'{path}: exists; choose another name or allow overwriting')


def _flush(path: Path) -> None:
    """Wait until a file's content, or a folder's entries, are on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def check_folder(option: str, folder: str | Path) -> None:
    """Check that a folder can be written to, or created, without creating it.

    Args:
        option: How the user specified it, for the message.
        folder: The folder; it and its parents need not exist.

    Raises:
        UserError: The folder is a file or inside one, or cannot be written to.
    """
    existing = next(path for path in (Path(folder), *Path(folder).parents) if path.exists())
    if not existing.is_dir():
        raise UserError(f'{option} {folder}: {existing} is a file, not a folder; choose another folder')
    try:
        with tempfile.TemporaryFile(dir=existing):  # permission bits are not conclusive
            return
    except OSError as error:
        raise UserError(
            f'{option} {folder}: cannot write in {existing} ({error.strerror}); choose another folder'
        ) from error


def save_text(text: str, path: Path) -> Path:
    """Write a text file whose name ends with a digest of its content, so that it replaces no other file.

    Args:
        text: The text; names of files that are not UTF-8 may be in it as Python decodes them.
        path: The file's name without the digest; its folder is made if it is missing.

    Returns:
        The file's absolute path.

    Raises:
        UserError: The file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f'{path.parent}: cannot be written ({error.strerror})') from error
    data = text.encode('utf-8', 'surrogateescape')
    return write_atomically(
        path.absolute(), lambda part: part.write_bytes(data), digest_in_name=True, overwrite=True
    )
