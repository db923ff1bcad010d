"""Make mmengine read local checkpoints as this package does, and find the one to go on from."""

import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ..utils.errors import UserError
from .reader import read_checkpoint

RESUMABLE = ('optimizer', 'message_hub')  # parts of a training's state, which weights alone lack
LOCAL = ''  # mmengine's scheme of paths without a prefix


def install_reader() -> None:
    """Let ``load_from``, ``resume`` and the toolboxes' inferencers read local files safely.

    mmengine's own loader fails on its own checkpoints with torch ≥ 2.6 (open-mmlab), or falls back
    to full unpickling (onedl). May be called more than once.
    """
    from mmengine.runner import CheckpointLoader  # needs OpenCV, which the backbone does without

    CheckpointLoader.register_scheme(prefixes=LOCAL, loader=load_from_local, force=True)


def load_from_local(filename: str, map_location: Any = None) -> dict[str, Any]:
    """Read a checkpoint for mmengine; see :func:`read_checkpoint`.

    The old toolboxes' ``meta['config']``, a config in Python, is left out: mmengine would execute
    it on resuming.

    Raises:
        UserError: As :func:`read_checkpoint`.
    """
    checkpoint = read_checkpoint(filename, map_location)
    if isinstance(checkpoint.get('meta'), dict):
        checkpoint['meta'].pop('config', None)
    return checkpoint


def latest_intact(folders: Iterable[str | Path]) -> tuple[Path | None, list[str]]:
    """Find the checkpoint to go on from: of those that are whole, the one of the latest iteration.

    Args:
        folders: Where a run writes its checkpoints; they need not exist.

    Returns:
        The checkpoint, None where there is none at all; and a line for each one that is not whole, which
        names it.

    Raises:
        UserError: There are checkpoints, and none of them is whole.
    """
    complaints: list[str] = []
    found: list[tuple[int, Path]] = []
    for path in (path for folder in folders for path in sorted(Path(folder).glob('*.pth'))):
        try:
            checkpoint = read_checkpoint(path, mmap=True)
        except UserError as error:
            complaints.append(str(error))
        else:
            if not missing_parts(checkpoint):
                found.append((checkpoint['meta']['iter'], path))
    for _, path in sorted(found, reverse=True):
        damaged = _damaged_entry(path)
        if damaged is None:
            return path, complaints
        complaints.append(f'{path}: is damaged ({damaged} is not as it was written)')
    if complaints:
        raise UserError(
            f'--resume: no checkpoint is whole: {"; ".join(complaints)}; give another one with --resume FILE,'
            ' or start anew in another --work-dir'
        )
    return None, []


def missing_parts(checkpoint: dict[str, Any]) -> list[str]:
    """The parts of a training's state that a checkpoint does not hold.

    Args:
        checkpoint: What :func:`read_checkpoint` returned.
    """
    return [part for part in RESUMABLE if part not in checkpoint]


def _damaged_entry(path: Path) -> str | None:
    """The first part of a zip file whose checksum is wrong: torch itself does not look."""
    if not zipfile.is_zipfile(path):  # an older format, without checksums
        return None
    with zipfile.ZipFile(path) as archive:
        return archive.testzip()
