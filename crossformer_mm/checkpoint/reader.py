"""Read checkpoint files without running any code in them."""

import contextlib
import json
import os
import pickle
import re
import threading
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import torch
from safetensors import safe_open

from ..utils.errors import UserError
from ..utils.files import CHUNK
from ..utils.text import shorten
from .inert import STAND_INS, resolve_stand_ins

MAX_SAFETENSORS_HEADER = 100_000_000  # bytes; the format's own limit
SAFETENSORS_META = 'crossformer_mm'  # the metadata entry that holds `meta`, as JSON
SAME_AGAIN = 'copy or download it again'
ADDRESS = re.compile(r'[\w.+:-]{2,}:/')  # with a scheme; C:/ is a drive


class Checkpoint(dict[str, Any]):
    """The content of a checkpoint file.

    Attributes:
        path: The file, for messages.
    """

    def __init__(self, content: Mapping[str, Any], path: Path) -> None:
        super().__init__(content)
        self.path = path


def read_checkpoint(
    path: str | Path, map_location: Any = 'cpu', *, mmap: bool = False, verify: bool = True
) -> Checkpoint:
    """Read a ``.pth`` file, zip or legacy, or a ``.safetensors`` file. No code in it is run.

    Besides tensors and plain values, a pickle may hold yacs configs (read as dicts), argparse
    namespaces, numpy scalars (read as Python's), arrays of numbers, and mmengine's history buffers.

    Args:
        path: The file; its format is recognised by content.
        map_location: As for ``torch.load``.
        mmap: Map a zip file to memory instead of reading it; see :func:`open_checkpoint`.
        verify: Check the checksums of a zip file, once in this process. The other formats have none.

    Returns:
        The content of the file; for a ``.safetensors`` file, ``state_dict`` and ``meta``.

    Raises:
        UserError: The file is missing, empty, damaged or not a checkpoint, or its pickle would call or build
            anything else, which the message names.
    """
    path = local_path(path)
    kind = _format_of(path)
    if verify:
        _verify(path, kind)
    try:
        if kind == 'safetensors':
            return Checkpoint(_read_safetensors(path, map_location), path)
        content = _read_pickle(path, map_location, mmap and kind == 'stored zip')
    except Exception as error:  # the unpickler can raise anything for a damaged or forged pickle
        raise UserError(f'{path}: {_reason(error)}') from error
    if not isinstance(content, dict):
        raise UserError(f'{path}: holds a {type(content).__name__}, not a dict of tensors: not a checkpoint')
    return Checkpoint(content, path)


_opened: WeakValueDictionary[tuple, Checkpoint] = WeakValueDictionary()


def open_checkpoint(source: str | Path | Checkpoint, *, verify: bool = True) -> Checkpoint:
    """Open a file with its tensors mapped to memory, shared by all callers that use it at the same time.

    As long as a caller keeps the result, opening the same, unchanged file returns it again. Use it for
    tensors that are compared or copied into a model. Do not keep the tensors: overwriting the file in place
    would change them.

    Args:
        source: The file; or an open checkpoint, which is returned.
        verify: As for :func:`read_checkpoint`.

    Raises:
        UserError: As :func:`read_checkpoint`.
    """
    if isinstance(source, Checkpoint):
        return source
    path = local_path(source)
    version = _version_of(path)
    checkpoint = _opened.get(version)
    if checkpoint is None:
        _opened[version] = checkpoint = read_checkpoint(path, mmap=True, verify=verify)
    elif verify:
        _verify(path, _format_of(path))
    return checkpoint


def opened_checkpoint(path: str | Path) -> Checkpoint | None:
    """The result of :func:`open_checkpoint` for this file, if a caller still holds it."""
    return _opened.get(_version_of(local_path(path)))


def local_path(path: str | Path) -> Path:
    """A path with the user's home folder filled in.

    Raises:
        UserError: It is an address, or no path.
    """
    if not isinstance(path, str | Path):
        raise UserError(f'{path!r:.60}: is not the name of a file')
    if ADDRESS.match(str(path)):
        raise UserError(f'{path}: is an address, not a file; download it first')
    return Path(os.path.expanduser(path))  # noqa: PTH111 # Path's own fails for unknown users


def _version_of(path: Path) -> tuple | None:
    """Identify a file and its version on disk."""
    try:
        stat = path.stat()
    except (OSError, ValueError):
        return None
    return path, stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns


@contextlib.contextmanager
def error_context(path: str | Path) -> Iterator[None]:
    """Prefix a :class:`UserError` raised in the block with a file's name."""
    try:
        yield
    except UserError as error:
        raise UserError(f'{path}: {error}') from error


def _read_pickle(path: Path, map_location: Any, mmap: bool) -> Any:
    with _only_stand_ins():
        loaded = torch.load(path, map_location, weights_only=True, mmap=mmap)
    return resolve_stand_ins(loaded)


_lock = threading.Lock()


@contextlib.contextmanager
def _only_stand_ins() -> Iterator[None]:
    """Let torch's unpickler use only our stand-ins, and nothing that other code in the process has allowed.

    torch has one list per process, so only one thread at a time may change it.
    """
    with _lock:
        before = torch.serialization.get_safe_globals()
        torch.serialization.clear_safe_globals()
        try:
            with torch.serialization.safe_globals(STAND_INS):
                yield
        finally:
            torch.serialization.add_safe_globals(before)


def _read_safetensors(path: Path, map_location: Any) -> dict[str, Any]:
    device = map_location if isinstance(map_location, str | torch.device) else 'cpu'
    with safe_open(path, framework='pt', device=str(device)) as file:
        meta = json.loads((file.metadata() or {}).get(SAFETENSORS_META, '{}'))
        return {'meta': meta, 'state_dict': {name: file.get_tensor(name) for name in file.keys()}}  # noqa: SIM118


def _format_of(path: Path) -> str:
    """'zip', 'stored zip' (without compression), 'pickle' or 'safetensors'."""
    try:
        if path.exists() and not path.is_file():
            raise UserError(f'{path}: is not a file; give the name of a file')  # a pipe would block
        with path.open('rb') as file:
            head = file.read(16)
    except OSError as error:
        raise UserError(f'{path}: cannot be read ({error.strerror}); check the path') from error
    if not head:
        raise UserError(f'{path}: is empty; {SAME_AGAIN}')
    if head[8:9] == b'{' and int.from_bytes(head[:8], 'little') <= MAX_SAFETENSORS_HEADER:
        return 'safetensors'
    if path.suffix == '.safetensors':
        raise UserError(f'{path}: is not a safetensors file despite its extension; {SAME_AGAIN}')
    if head.startswith(b'PK'):
        return _zip_format(path)
    if head.startswith(b'\x80'):
        return 'pickle'
    raise UserError(
        f'{path}: is not a checkpoint, it starts with {head!r}; it may be a web page or another text '
        'saved under this name'
    )


def _zip_format(path: Path) -> str:
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except zipfile.BadZipFile as error:
        raise UserError(f'{path}: is cut off or damaged ({error}); {SAME_AGAIN}') from error
    names = [entry.filename.partition('/')[2] for entry in entries]
    if 'constants.pkl' in names:
        raise UserError(f'{path}: is a TorchScript program, not a checkpoint; give a file with its weights')
    if 'data.pkl' not in names:
        raise UserError(f'{path}: is a zip archive without data.pkl, not a checkpoint; unpack it')
    stored = all(entry.compress_type == zipfile.ZIP_STORED for entry in entries)
    return 'stored zip' if stored else 'zip'


_verified: set[tuple | None] = set()  # versions of files with correct checksums


def _verify(path: Path, kind: str) -> None:
    """Check the checksums of a zip file, unless this version of it is known to be intact; torch does not.

    Raises:
        UserError: One is wrong.
    """
    version = _version_of(path)
    if 'zip' not in kind or version in _verified:
        return
    with zipfile.ZipFile(path) as archive:
        for entry in archive.infolist():
            if entry.CRC == 0:  # torch.serialization.set_crc32_options(False) writes zeros
                continue
            try:
                with archive.open(entry) as file:
                    while file.read(CHUNK):
                        pass
            except Exception as error:  # zipfile can raise anything for a damaged header
                wrong = shorten([entry.filename])
                raise UserError(f'{path}: is damaged (wrong checksum of {wrong}); {SAME_AGAIN}') from error
    _verified.add(version)


def _reason(error: Exception) -> str:
    """The reason for an unpickling error, in one line instead of torch's several."""
    text = str(error)
    refused = re.search(r'GLOBAL (\S+)', text)
    if isinstance(error, pickle.UnpicklingError) and refused:
        name = shorten([refused[1]])
        return f'refused to unpickle {name!r} (only tensors and plain data are allowed; no code was run)'
    detail = shorten([text.rpartition('WeightsUnpickler error:')[2].strip().partition('\n')[0]])
    detail = f'{type(error).__name__}: {detail}' if detail else type(error).__name__
    return (
        f'cannot be read as a checkpoint ({detail}): it is cut off, damaged, or not in a format that '
        f'torch.save writes by default; {SAME_AGAIN}'
    )
