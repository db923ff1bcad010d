"""Make mmengine read local checkpoints as this package does."""

from typing import Any

from .reader import read_checkpoint

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
