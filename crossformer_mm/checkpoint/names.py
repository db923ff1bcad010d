"""Which tensors a checkpoint holds and what their names mean, as pure functions on dicts."""

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor

from ..errors import UserError

CONTAINERS = ('state_dict', 'model')  # the toolboxes'; the classification releases'
DISTRIBUTED = 'module.'
BACKBONE = 'backbone.'
CLASSIFIER = ('norm.', 'head.')
DERIVED_BUFFERS = ('.attn.biases', '.attn.relative_position_index')  # of the oldest releases


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
    """Names for an error message: the first few, and how many more there are."""
    names = list(names)
    more = f' and {len(names) - limit} more' if len(names) > limit else ''
    return ', '.join(names[:limit]) + more
