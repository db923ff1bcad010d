"""Information about a checkpoint's training: class names, and the layout of long distance attention."""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from ..models.crossformer import DERIVED_BUFFERS
from ..models.grouping import LAYOUTS, LONG_DISTANCE
from .names import is_released_classifier, tensors_of

NOTES = 'crossformer_mm'  # the entry of `meta` with the notes of the converter, or of a training
BACKBONE_NOTES = 'backbone'  # the notes' entry with `CrossFormer.settings`
IGNORES_EXIF = 'ignore_exif'  # the notes' entry of `trained_without_exif`
OLD_CONFIG, NEW_CONFIG = 'config', 'cfg'  # entries of `meta`: the toolboxes' until 2022; mmengine's
SETTING = re.compile(r"""\blong_distance['"]?\s*[=:]\s*['"](\w+)""")
CODE_OF_2023 = re.compile(r"""\badaptive_interval(['"]?\s*[=:]|s['"]?\s*[=:]\s*True)""")
PUBLISHED_TYPE = re.compile(r"""['"]CrossFormer_[TSBL]['"]""")


def dataset_meta_of(checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    """Class names and colours from the ``meta`` of old (``CLASSES``) and new (``dataset_meta``) files.

    Returns:
        ``classes``, a tuple of names, and ``palette``, a list of (red, green, blue), if the file has them.
    """
    meta = _mapping(checkpoint.get('meta'))
    meta = meta['dataset_meta'] if isinstance(meta.get('dataset_meta'), Mapping) else meta
    entries = {key.lower(): value for key, value in meta.items() if isinstance(key, str)}
    found = {}
    if classes := _classes(entries.get('classes')):
        found['classes'] = classes
    if palette := _palette(entries.get('palette')):
        found['palette'] = palette
    return found


def _classes(value: Any) -> tuple[str, ...]:
    """Class names in any notation; none if one of them is not a name or number."""
    if isinstance(value, str):
        return (value,)
    names = _items(value)
    return tuple(map(str, names)) if all(isinstance(name, str | int | float) for name in names) else ()


def _palette(value: Any) -> list[tuple[int, ...]]:
    """Colours in any notation; none if one of them is not three numbers from 0 to 255."""
    colours = [_items(colour) for colour in _items(value)]
    channels = [channel for colour in colours for channel in colour]
    if any(len(colour) != 3 for colour in colours):
        return []
    if not all(isinstance(channel, int | float) and 0 <= channel <= 255 for channel in channels):
        return []
    return [tuple(map(int, colour)) for colour in colours]


def _items(value: Any) -> list[Any]:
    """The items of a list, tuple, array, or dict with the keys 0, 1, 2 …; none for anything else."""
    if isinstance(value, Mapping):
        indices = range(len(value))
        return [value[index] for index in indices] if value.keys() == {*indices} else []
    if isinstance(value, np.ndarray | Tensor):
        value = value.tolist()
    return list(value) if isinstance(value, list | tuple) else []


class ImpliedLayout(NamedTuple):
    """The layout of long distance attention that a file was trained with.

    Attributes:
        layouts: Possible values of ``long_distance``: one; two if they compute the same; none if unknown.
        why: The evidence.
    """

    layouts: tuple[str, ...]
    why: str

    def __str__(self) -> str:
        return f'{" or ".join(self.layouts) or "unknown"} ({self.why})'


def implied_layout(checkpoint: Mapping[str, Any]) -> ImpliedLayout:
    """Derive the layout from the origin of a file, since its tensors fit both.

    The notes of a file that this package wrote come first, then the config in the file, then the names of
    the tensors; ``docs/checkpoints.md`` lists what each implies.

    Args:
        checkpoint: From :func:`~.reader.read_checkpoint`. Its configs are searched as text, not executed.

    Raises:
        UserError: It contains no tensors.
    """
    meta = _mapping(checkpoint.get('meta'))
    noted = notes_of(checkpoint).get('long_distance')
    noted = noted if isinstance(noted, list) else [noted]
    if noted and all(isinstance(layout, str) and layout in LONG_DISTANCE for layout in noted):
        return ImpliedLayout(tuple(noted), 'noted in the file')
    old, new = (text if isinstance(text := meta.get(key), str) else '' for key in (OLD_CONFIG, NEW_CONFIG))
    return _layout_of_config(old, new) or _layout_of_kind(tensors_of(checkpoint))


def trained_without_exif(checkpoint: Mapping[str, Any]) -> bool | None:
    """Whether a model was trained on images that were not turned as their EXIF data says.

    The config in a checkpoint is searched as text for mmcv's ``color_ignore_orientation``, and the like.

    Returns:
        None if the file does not tell.
    """
    noted = notes_of(checkpoint).get(IGNORES_EXIF)
    if isinstance(noted, bool):
        return noted
    text = _mapping(checkpoint.get('meta')).get(NEW_CONFIG)
    return '_ignore_orientation' in text if isinstance(text, str) else None


def notes_of(checkpoint: Mapping[str, Any]) -> Mapping[str, Any]:
    """The notes of the converter, or of a training of this package; empty for other files."""
    return _mapping(_mapping(checkpoint.get('meta')).get(NOTES))


def _mapping(value: Any) -> Mapping:
    return value if isinstance(value, Mapping) else {}


def _layout_of_config(old: str, new: str) -> ImpliedLayout | None:
    """The layout implied by ``long_distance``, or by the authors' type names.

    Their configs pass ``adaptive_interval`` since December 2023, when their code changed to layout
    ``'window'``. Old configs without it are for their earlier code. (New configs are this package's, whose
    default has changed.)
    """
    settings = set(SETTING.findall(old + new))
    if len(settings) == 1 and settings <= set(LONG_DISTANCE):
        return ImpliedLayout(tuple(settings), "set in the file's config")
    if CODE_OF_2023.search(old + new):
        return ImpliedLayout(('window',), "the file's config is for the authors' code of December 2023")
    if PUBLISHED_TYPE.search(old):
        return ImpliedLayout(('map',), "the file's config is for the authors' code of 2021")
    return None


def _layout_of_kind(state: Mapping[str, Tensor]) -> ImpliedLayout:
    released = is_released_classifier(state)
    if released and any('.ex_conv.' in name for name in state):
        return ImpliedLayout(('window',), "the authors' code of December 2023 trained the ++ classifiers")
    if released:
        return ImpliedLayout(LAYOUTS, 'a classifier of 224×224 images, for which they are the same')
    if any(name.endswith(DERIVED_BUFFERS) for name in state):
        return ImpliedLayout(('map',), "it contains buffers of the authors' code of 2021")
    return ImpliedLayout((), 'the file does not state it')
