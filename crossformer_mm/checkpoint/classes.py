"""The class names that a checkpoint holds, as today's toolboxes want them."""

from collections.abc import Mapping, Sequence
from typing import Any

ENTRIES = ('classes', 'palette')


def dataset_meta_of(checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    """Class names and colours from the ``meta`` of old (``CLASSES``) and new (``dataset_meta``) files.

    Args:
        checkpoint: Of any toolbox version.

    Returns:
        ``classes``, a tuple of names, and ``palette``, a list of (red, green, blue), where the file has them.
    """
    meta = checkpoint.get('meta')
    meta = meta if isinstance(meta, Mapping) else {}
    known = meta.get('dataset_meta')
    known = known if isinstance(known, Mapping) else meta
    entries = {key.lower(): value for key, value in known.items() if isinstance(key, str)}
    return {key: _plain(key, entries[key]) for key in ENTRIES if _is_given(entries.get(key))}


def _is_given(value: Any) -> bool:
    return isinstance(value, str) or (isinstance(value, Sequence) and len(value) > 0)


def _plain(key: str, value: Any) -> Any:
    if key == 'classes':
        return (value,) if isinstance(value, str) else tuple(str(name) for name in value)
    return [tuple(int(part) for part in colour) for colour in value]
