"""Let mmengine read local checkpoints safely, and find the one to resume from."""

import copy
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ..utils.errors import UserError
from .reader import Checkpoint, damaged_entry, open_checkpoint, opened_checkpoint, read_checkpoint

RESUMABLE = ('optimizer', 'message_hub')  # parts of a training's state, which weights alone lack
LOCAL = ''  # mmengine's scheme of paths without a prefix


def install_reader() -> None:
    """Let ``load_from``, ``resume`` and the toolboxes' inferencers read local files safely.

    mmengine's own loader fails on its own checkpoints with torch ≥ 2.6 (open-mmlab), or falls back
    to full unpickling (onedl). This holds for the whole process; calling it twice does no harm.
    """
    from mmengine.runner import CheckpointLoader  # needs OpenCV, which the backbone does without

    CheckpointLoader.register_scheme(prefixes=LOCAL, loader=load_from_local, force=True)


def load_from_local(filename: str, map_location: Any = None) -> dict[str, Any]:
    """Read a checkpoint for mmengine, or copy the one that is open, see :func:`~.reader.open_checkpoint`.

    The old toolboxes' ``meta['config']``, a config in Python, is left out: mmengine would execute
    it on resuming.

    Raises:
        UserError: As :func:`~.reader.read_checkpoint`.
    """
    opened = opened_checkpoint(filename)
    checkpoint = read_checkpoint(filename, map_location) if opened is None else copy.deepcopy(opened)
    if isinstance(checkpoint.get('meta'), dict):
        checkpoint['meta'].pop('config', None)
    return dict(checkpoint)


def latest_intact(folders: Iterable[str | Path]) -> tuple[Checkpoint | None, list[str]]:
    """Find the checkpoint to resume from: among the intact ones, the one with the latest iteration.

    Args:
        folders: Where a training writes its checkpoints; they need not exist.

    Returns:
        The checkpoint, open, None if there is none at all; and a line for each damaged file, which names it.

    Raises:
        UserError: There are checkpoints, but none of them is intact.
    """
    complaints: list[str] = []
    found: list[tuple[int, Path]] = []  # not the checkpoints themselves: each holds the whole log
    for path in (path for folder in folders for path in sorted(Path(folder).glob('*.pth'))):
        try:
            checkpoint = open_checkpoint(path)
        except UserError as error:
            complaints.append(str(error))
        else:
            if not missing_parts(checkpoint):
                found.append((checkpoint['meta']['iter'], path))
    for _, path in sorted(found, reverse=True):
        damaged = damaged_entry(path)
        if damaged is None:
            return open_checkpoint(path), complaints
        complaints.append(f'{path}: is damaged (wrong checksum of {damaged})')
    if complaints:
        raise UserError(
            f'no checkpoint is intact: {"; ".join(complaints)}; resume from another file, or start in another'
            ' work folder'
        )
    return None, []


def missing_parts(checkpoint: Checkpoint) -> list[str]:
    """The parts of a training's state that a checkpoint lacks."""
    return [part for part in RESUMABLE if part not in checkpoint]
