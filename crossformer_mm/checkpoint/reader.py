"""Read checkpoint files without running any code that they hold."""

import contextlib
import json
import pickle
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from ..utils.errors import UserError
from .inert import STAND_INS, resolve_stand_ins
from .names import printable

MAX_SAFETENSORS_HEADER = 100_000_000  # bytes; the format's own limit
SAFETENSORS_META = 'crossformer_mm'  # the metadata entry that holds `meta`, as JSON
SAME_AGAIN = 'copy or download it again'


def read_checkpoint(path: str | Path, map_location: Any = 'cpu', *, mmap: bool = False) -> dict[str, Any]:
    """Read a ``.pth`` file, zip or legacy, or a ``.safetensors`` file. No code in it is run.

    Beside tensors and plain values, a pickle may hold yacs configs (read as dicts), argparse
    namespaces, numpy scalars (read as Python's), arrays of numbers, and mmengine's history buffers.

    Args:
        path: The file; what it is, its content tells.
        map_location: As in ``torch.load``.
        mmap: Map a zip file into memory instead of reading it, for tensors that are used in part, or
            once. Not for tensors that are kept: overwriting the file would change them.

    Returns:
        What the file holds; of a ``.safetensors`` file, ``state_dict`` and ``meta``.

    Raises:
        UserError: The file is missing, empty, cut off, no checkpoint, or its pickle wants anything
            else called or built, which the message names.
    """
    if '://' in str(path):
        raise UserError(f'{path}: is an address, not a file; download it first')
    path = Path(path).expanduser()
    kind = _kind(path)
    try:
        if kind == 'safetensors':
            return _read_safetensors(path, map_location)
        checkpoint = _read_pickle(path, map_location, mmap and kind == 'stored zip')
    except Exception as error:  # a damaged or forged pickle can make the unpickler raise anything
        raise UserError(f'{path}: {_reason(error)}') from error
    if not isinstance(checkpoint, dict):
        raise UserError(f'{path}: holds a {type(checkpoint).__name__}, not a dict of tensors: no checkpoint')
    return checkpoint


@contextlib.contextmanager
def error_context(path: str | Path) -> Iterator[None]:
    """Put a file's name before the errors that a user meets on its account."""
    try:
        yield
    except UserError as error:
        raise UserError(f'{path}: {error}') from error


def _read_pickle(path: Path, map_location: Any, mmap: bool) -> Any:
    with _only_stand_ins():
        loaded = torch.load(path, map_location, weights_only=True, mmap=mmap)
    return resolve_stand_ins(loaded)


@contextlib.contextmanager
def _only_stand_ins() -> Iterator[None]:
    """Let torch's unpickler use our stand-ins, and nothing that other code here allows."""
    before = torch.serialization.get_safe_globals()
    torch.serialization.clear_safe_globals()
    torch.serialization.add_safe_globals(STAND_INS)
    try:
        yield
    finally:
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(before)


def _read_safetensors(path: Path, map_location: Any) -> dict[str, Any]:
    device = map_location if isinstance(map_location, str | torch.device) else 'cpu'
    with safe_open(path, framework='pt', device=str(device)) as file:
        meta = json.loads((file.metadata() or {}).get(SAFETENSORS_META, '{}'))
        return {'meta': meta, 'state_dict': {name: file.get_tensor(name) for name in file.keys()}}  # noqa: SIM118


def _kind(path: Path) -> str:
    """'zip', 'stored zip' (nothing in it is compressed), 'pickle' or 'safetensors'."""
    try:
        with path.open('rb') as file:
            head = file.read(16)
    except OSError as error:
        raise UserError(f'{path}: cannot be read ({error.strerror}); check the path') from error
    if not head:
        raise UserError(f'{path}: is empty; {SAME_AGAIN}')
    if head[8:9] == b'{' and int.from_bytes(head[:8], 'little') <= MAX_SAFETENSORS_HEADER:
        return 'safetensors'
    if path.suffix == '.safetensors':
        raise UserError(f'{path}: is no safetensors file, in spite of its name; {SAME_AGAIN}')
    if head.startswith(b'PK'):
        return _zip_kind(path)
    if head.startswith(b'\x80'):
        return 'pickle'
    raise UserError(
        f'{path}: is no checkpoint, it starts with {head!r}; a web page or another text may have '
        'been saved in its place'
    )


def _zip_kind(path: Path) -> str:
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except zipfile.BadZipFile as error:
        raise UserError(f'{path}: is cut off or damaged ({error}); {SAME_AGAIN}') from error
    names = [entry.filename.partition('/')[2] for entry in entries]
    if 'constants.pkl' in names:
        raise UserError(f'{path}: is a TorchScript program, not a checkpoint; give the weights')
    if 'data.pkl' not in names:
        raise UserError(f'{path}: is a zip archive without data.pkl, no checkpoint; unpack it')
    stored = all(entry.compress_type == zipfile.ZIP_STORED for entry in entries)
    return 'stored zip' if stored else 'zip'


def _reason(error: Exception) -> str:
    """One line for what stopped the unpickler, from the several that torch writes."""
    text = str(error)
    refused = re.search(r'GLOBAL (\S+)', text)
    if isinstance(error, pickle.UnpicklingError) and refused:
        return (
            f'its pickle wants to call or build {refused[1]!r}, which is no plain data: refused, '
            'nothing was run; use a file that holds tensors and plain values alone'
        )
    detail = printable(text.rpartition('WeightsUnpickler error:')[2].strip().partition('\n')[0][:200])
    detail = f'{type(error).__name__}: {detail}' if detail else type(error).__name__
    return (
        f'cannot be read as a checkpoint ({detail}): it is cut off, damaged, or not as torch.save '
        f'writes it by default; {SAME_AGAIN}'
    )
