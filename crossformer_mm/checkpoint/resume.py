"""Let mmengine read local checkpoints safely, and find the checkpoint to resume from."""

import copy
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from mmengine.model import PretrainedInit

from ..utils.errors import UserError
from .load import CrossFormerPretrained, load_state_dict
from .reader import Checkpoint, open_checkpoint, opened_checkpoint, read_checkpoint

RESUMABLE = ('optimizer', 'message_hub')  # parts of a training state, which files with only weights lack


def install_reader() -> None:
    """Let ``load_from``, ``resume``, ``init_cfg`` and the toolboxes' inferencers load safely and strictly.

    mmengine's own loader fails on its own checkpoints with torch ≥ 2.6 (open-mmlab), or falls back
    to full unpickling (onedl); it downloads files, and loads what happens to fit. This affects the whole
    process; repeated calls have no further effect.
    """
    from mmengine.runner import CheckpointLoader, checkpoint  # needs OpenCV, which the backbone does not

    CheckpointLoader.load_checkpoint = staticmethod(load_from_local)  # instead of a loader per scheme
    checkpoint.load_state_dict = load_state_dict
    PretrainedInit.__call__ = CrossFormerPretrained.__call__


def load_from_local(filename: str, map_location: Any = None, logger: Any = None) -> dict[str, Any]:
    """Read a checkpoint for mmengine, or copy an open one (see :func:`~.reader.open_checkpoint`).

    The old toolboxes' ``meta['config']``, a config in Python, is removed: mmengine would execute it when
    resuming.

    Args:
        filename: The file; addresses are refused.
        map_location: As for ``torch.load``.
        logger: Not used.

    Raises:
        UserError: As :func:`~.reader.read_checkpoint`.
    """
    opened = opened_checkpoint(filename)
    checkpoint = read_checkpoint(filename, map_location) if opened is None else copy.deepcopy(opened)
    if isinstance(checkpoint.get('meta'), dict):
        checkpoint['meta'].pop('config', None)
    return dict(checkpoint)


def latest_intact(folders: Iterable[str | Path]) -> tuple[Checkpoint | None, list[str]]:
    """Find the checkpoint to resume from: the intact one with the latest iteration.

    Args:
        folders: The folders with a training's checkpoints; they need not exist.

    Returns:
        The open checkpoint, or None if there are no checkpoints; and a line for each damaged file.

    Raises:
        UserError: There are checkpoints, but none of them is intact.
    """
    complaints: list[str] = []
    found: list[tuple[int, Path]] = []  # not the open checkpoints: each contains the log
    for path in (path for folder in folders for path in sorted(Path(folder).glob('*.pth'))):
        try:
            checkpoint = open_checkpoint(path, verify=False)  # of many, only one is used
        except UserError as error:
            complaints.append(str(error))
        else:
            if not missing_parts(checkpoint):
                found.append((checkpoint['meta']['iter'], path))
    for _, path in sorted(found, reverse=True):
        try:
            return open_checkpoint(path), complaints
        except UserError as error:
            complaints.append(str(error))
    if complaints:
        raise UserError(
            f'no checkpoint is intact: {"; ".join(complaints)}; resume from another file, or use another'
            ' work folder'
        )
    return None, []


def missing_parts(checkpoint: Checkpoint) -> list[str]:
    """The parts of a training state that a checkpoint lacks."""
    return [part for part in RESUMABLE if part not in checkpoint]
