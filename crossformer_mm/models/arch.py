"""The published archs, and the validation of a :class:`~crossformer_mm.CrossFormer`'s arguments."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .grouping import LONG_DISTANCE
from .position import POSITIONS

STAGES = 4


@dataclass(frozen=True)
class Arch:
    """The size of a network.

    Attributes:
        embed_dims: C, the channels of stage 1; each later stage has twice as many as the previous one.
        depths: Blocks of each stage.
        num_heads: Attention heads of each stage.
        acl: Whether it has CrossFormer++'s activation cooling layers.
        drop_path_rate: Stochastic depth of the last block.
    """

    embed_dims: int
    depths: tuple[int, ...]
    num_heads: tuple[int, ...]
    acl: bool = False
    drop_path_rate: float = 0.0

    def dims(self, stage: int) -> int:
        """Channels of ``stage``, counted from 0."""
        return self.embed_dims * 2**stage

    def is_cooled(self, stage: int, block: int) -> bool:
        """Whether a block ends with an ACL: every third block of a stage, except its last."""
        return self.acl and block % 3 == 2 and block != self.depths[stage] - 1


# fmt: off
ARCHS = {
    't':    Arch(64,  (1, 1, 8, 6),  (2, 4, 8, 16),  acl=False, drop_path_rate=0.1),
    's':    Arch(96,  (2, 2, 6, 2),  (3, 6, 12, 24), acl=False, drop_path_rate=0.2),
    'b':    Arch(96,  (2, 2, 18, 2), (3, 6, 12, 24), acl=False, drop_path_rate=0.3),
    'l':    Arch(128, (2, 2, 18, 2), (4, 8, 16, 32), acl=False, drop_path_rate=0.5),
    'pp_s': Arch(64,  (2, 2, 18, 2), (2, 4, 8, 16),  acl=True,  drop_path_rate=0.2),
    'pp_b': Arch(96,  (2, 2, 18, 2), (3, 6, 12, 24), acl=True,  drop_path_rate=0.3),
    'pp_l': Arch(128, (2, 2, 18, 2), (4, 8, 16, 32), acl=True,  drop_path_rate=0.5),
    'pp_h': Arch(128, (6, 6, 18, 2), (4, 8, 16, 32), acl=True,  drop_path_rate=0.5),
}
# fmt: on
REQUIRED_FIELDS = ('embed_dims', 'depths', 'num_heads')
FIELDS = (*REQUIRED_FIELDS, 'acl', 'drop_path_rate')


def resolve_arch(arch: str | Mapping[str, Any]) -> Arch:
    """Look up an arch by its name, or make one from a dict of its fields.

    Raises:
        ValueError: The name is unknown, or a field is missing, unknown or not allowed.
    """
    if isinstance(arch, str):
        if arch not in ARCHS:
            raise ValueError(f'unknown arch={arch!r}: choose one of {", ".join(ARCHS)}, or give a dict')
        return ARCHS[arch]
    if not isinstance(arch, Mapping):
        raise ValueError(f'arch={arch!r} must be one of {", ".join(ARCHS)}, or a dict')
    missing = [field for field in REQUIRED_FIELDS if field not in arch]
    unknown = [field for field in arch if field not in FIELDS]
    if missing or unknown:
        raise ValueError(
            f'arch={dict(arch)!r} needs the fields {", ".join(REQUIRED_FIELDS)} and may have acl, '
            f'drop_path_rate; missing: {missing}, unknown: {unknown}'
        )
    return _checked_arch(arch)


def _checked_arch(fields: Mapping[str, Any]) -> Arch:
    embed_dims = fields['embed_dims']
    if not is_count(embed_dims) or embed_dims % 16:
        raise ValueError(f'arch embed_dims={embed_dims!r} must be a positive multiple of 16')
    arch = Arch(
        embed_dims,
        check_stages('arch depths', fields['depths']),
        check_stages('arch num_heads', fields['num_heads']),
        bool(fields.get('acl', False)),
        fields.get('drop_path_rate', 0.0),
    )
    for stage, heads in enumerate(arch.num_heads):
        if arch.dims(stage) % heads:
            raise ValueError(
                f'arch num_heads={arch.num_heads!r}: {heads} heads do not divide the '
                f'{arch.dims(stage)} channels of stage {stage + 1}'
            )
    return arch


def is_count(value: Any) -> bool:
    """Whether ``value`` is an int of at least 1."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def check_stages(name: str, values: Sequence[int]) -> tuple[int, ...]:
    """Return ``values`` as a tuple.

    Raises:
        ValueError: The values are not one int of at least 1 per stage.
    """
    if not isinstance(values, Sequence) or len(values) != STAGES or not all(map(is_count, values)):
        raise ValueError(f'{name}={values!r} must be {STAGES} ints of at least 1, one per stage')
    return tuple(values)


def check_layout(long_distance: str, adaptive_intervals: bool) -> None:
    """Check the layout of long distance attention.

    Raises:
        ValueError: It is unknown, or adaptive intervals are set but it does not support them.
    """
    _check_choice('long_distance', long_distance, LONG_DISTANCE)
    if adaptive_intervals and long_distance != 'window':
        raise ValueError(
            "adaptive_intervals=True needs long_distance='window': in layout 'map' a group spans the map"
            ' with any interval'
        )


def check_position(position: str) -> None:
    """Check how attention learns positions.

    Raises:
        ValueError: It is unknown.
    """
    _check_choice('position', position, POSITIONS)


def _check_choice(name: str, value: str, choices: Sequence[str]) -> None:
    if value not in choices:
        raise ValueError(f'{name}={value!r} must be one of {", ".join(map(repr, choices))}')


def check_cross_scale_stages(stages: int) -> None:
    """Check the number of stages with cross-scale embeddings.

    Raises:
        ValueError: It is not between 0 and the number of stages.
    """
    if isinstance(stages, bool) or stages not in range(STAGES + 1):
        raise ValueError(
            f'cross_scale_stages={stages!r} must be 0 (one kernel per embedding) to {STAGES} (several in all)'
        )


def check_out_indices(indices: Sequence[int]) -> tuple[int, ...]:
    """Return ``indices`` as a tuple.

    Raises:
        ValueError: The indices are empty, not of stages, or not in ascending order.
    """
    ascending = isinstance(indices, Sequence) and list(indices) == sorted(set(indices))
    if not ascending or not indices or not set(indices) <= set(range(STAGES)):
        raise ValueError(
            f'out_indices={indices!r} must be one or more of 0 to {STAGES - 1}, in ascending order'
        )
    return tuple(indices)


def check_frozen_stages(stages: int) -> int:
    """Return ``stages``.

    Raises:
        ValueError: It is not between −1 and the number of stages.
    """
    if stages not in range(-1, STAGES + 1):
        raise ValueError(
            f'frozen_stages={stages!r} must be −1 (nothing), 0 (the first embedding) or up to '
            f'{STAGES} (also this many stages)'
        )
    return stages


def check_rates(**rates: float) -> None:
    """Check probabilities.

    Raises:
        ValueError: One of them is not a number from 0 to 1; the message has its name.
    """
    for name, rate in rates.items():
        if not isinstance(rate, int | float) or not 0 <= rate <= 1:
            raise ValueError(f'{name}={rate!r} must be a number from 0 to 1')
