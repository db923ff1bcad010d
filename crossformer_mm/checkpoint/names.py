"""Which tensors a checkpoint holds and what their names mean, as pure functions on dicts."""

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor

from ..utils.errors import UserError

CONTAINERS = ('state_dict', 'model')  # the toolboxes'; the classification releases'
DISTRIBUTED = 'module.'
BACKBONE = 'backbone.'
CLASSIFIER = ('norm.', 'head.')
DERIVED_BUFFERS = ('.attn.biases', '.attn.relative_position_index')  # of the oldest releases
AVERAGED = 'ema_'  # what MMCV 1.x's averaging hook registers beside the weights
HEADS = {
    'segmentor': ('decode_head.', 'auxiliary_head.'),
    'detector': ('rpn_head.', 'roi_head.', 'bbox_head.'),
    'classifier': ('head.',),
}


def tensors_of(checkpoint: Mapping[str, Any]) -> dict[str, Tensor]:
    """The tensors of a checkpoint of any shape, by the names they had before being distributed.

    Raises:
        UserError: There are none.
    """
    inner = next((checkpoint[key] for key in CONTAINERS if is_state_dict(checkpoint.get(key))), None)
    state = checkpoint if inner is None else inner
    if not is_state_dict(state):
        found = shorten(map(str, checkpoint)) or 'nothing'
        raise UserError(f'holds no tensors under {" or ".join(CONTAINERS)}, but {found}')
    if all(name.startswith(DISTRIBUTED) for name in state):
        state = strip_prefix(state, DISTRIBUTED)
    return dict(state)


def is_state_dict(value: Any) -> bool:
    """Whether ``value`` is a dict of named tensors, at least one."""
    return (
        isinstance(value, Mapping)
        and len(value) > 0
        and all(isinstance(k, str) and isinstance(v, Tensor) for k, v in value.items())
    )


def strip_prefix(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names start with ``prefix``, without it."""
    return {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}


def backbone_of(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The backbone's tensors, of a whole model, of a classifier, or of a backbone alone."""
    whole = strip_prefix(state, BACKBONE) or state
    return {name: tensor for name, tensor in whole.items() if not name.startswith(CLASSIFIER)}


def shorten(names: Iterable[str], limit: int = 4) -> str:
    """Names for a message: the first few, and how many more there are."""
    names = [printable(name) for name in names]
    more = f' and {len(names) - limit} more' if len(names) > limit else ''
    return ', '.join(names[:limit]) + more


def printable(text: str) -> str:
    """Text from a file, without what would break a line or command a terminal."""
    return ''.join(character if character.isprintable() else '?' for character in text)


def model_kind(state: Mapping[str, Tensor]) -> str:
    """What the tensors make up: 'segmentor', 'detector', 'classifier' or 'backbone'."""
    for kind, prefixes in HEADS.items():
        if any(name.startswith(prefixes) for name in state):
            return kind
    return 'backbone'


def select_tensors(state: Mapping[str, Tensor], to: str) -> tuple[dict[str, Tensor], dict[str, list[str]]]:
    """Choose the tensors that today's model wants.

    MMDetection 2.x and MMSegmentation 0.x name the tensors of the models that CrossFormer was published
    in (RetinaNet, Mask and Cascade Mask R-CNN, Semantic FPN, UPerNet) as 3.x and 1.x do: models built by
    2.11 and 2.25, and by 0.11 and 0.30, agree to the name. What has to go is what their hooks added.

    Args:
        state: The tensors of a checkpoint, see :func:`tensors_of`.
        to: 'backbone', 'detector' or 'segmentor'.

    Returns:
        The wanted tensors, a backbone's without prefix; and the names of the others by why they are left out.
    """
    whole = to != 'backbone'
    kept, dropped = {}, {}
    inside = whole or any(name.startswith(BACKBONE) for name in state)
    for name, tensor in state.items():
        reason = _why_dropped(name, whole, inside)
        if reason:
            dropped.setdefault(reason, []).append(name)
        else:
            kept[name if whole else name.removeprefix(BACKBONE)] = tensor
    return kept, dropped


def _why_dropped(name: str, whole: bool, inside: bool) -> str | None:
    if name.startswith(AVERAGED):
        return "the averaging hook's copies"
    if name.endswith(DERIVED_BUFFERS):
        return 'buffers that the network derives'
    if inside and not whole and not name.startswith(BACKBONE):
        return 'neck and heads'
    if name.removeprefix(BACKBONE if inside else '').startswith(CLASSIFIER):
        return "the classifier's norm and head"
    return None
