"""Find the tensors of a checkpoint, and recognise the model and arch by their names and shapes."""

import dataclasses
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from torch import Tensor

from ..models.arch import ARCHS, STAGES, Arch
from ..models.crossformer import DERIVED_BUFFERS
from ..utils.errors import UserError
from ..utils.text import shorten

CONTAINERS = ('state_dict', 'model', 'model_state_dict')  # keys of state dicts that come before others
NO_WEIGHTS = ('optimizer', 'gradients')  # keys of other tensors
AVERAGE = re.compile(
    r'(^|[._])(ema|swa|averaged?|teacher|target|momentum)([._]|$)', re.I
)  # keys that come last
COUNTERS = ('n_averaged', 'steps')  # tensors that torch's and MMEngine's averaged models add
DEPTH = 3  # of a state dict in a checkpoint
# Parts of names that torch's distributed, averaged, compiled, sharded and checkpointed modules add.
WRAPPERS = ('module', '_orig_mod', '_fsdp_wrapped_module', '_checkpoint_wrapped_module')
BACKBONE, NECK, RPN = 'backbone.', 'neck.', 'rpn_head.'
CLASSIFIER = ('norm.', 'head.')  # of a released one
# Where a released classifier's tensors are in MMPretrain's, with this package's head; the first match counts.
PUBLISHED = (('norm.', 'head.norm.'), ('head.', 'head.fc.'), ('', BACKBONE))
ABSOLUTE, RELATIVE = 'patch_embed.pos.absolute_pos_embed', 'attn.pos.relative_position_bias_table'
HEAD_WIDTH = 32  # channels per head of every published arch
AVERAGED = 'ema_'  # prefix of the copies that MMCV 1.x's averaging hook adds
HEADS = {
    'segmentor': ('decode_head.', 'auxiliary_head.'),
    'detector': ('rpn_head.', 'roi_head.', 'bbox_head.', 'panoptic_head.'),
    'classifier': ('head.',),
}

# Tensors that every CrossFormer has, and those that identify other networks, the most specific first.
OURS = (
    'patch_embed.norm.weight',
    'patch_embed.projs.0.weight',
    'layers.0.blocks.0.attn.qkv.weight',
)
OTHER_NETWORKS = {
    'Swin': r'relative_position_bias_table',
    'ResNet': r'(^|\.)layer1\.0\.conv1\.weight',
    'ConvNeXt': r'(^|\.)(gamma|depthwise_conv\.weight|dwconv\.weight)',
    'ViT': r'(^|\.)(cls_token|pos_embed)$',
    'PVT': r'(^|\.)patch_embed1\.',
}


class Found(NamedTuple):
    """The tensors of a model in a checkpoint, and what else there is.

    Attributes:
        state: The tensors, with the names of a model that is not wrapped.
        path: The keys that lead to them.
        copies: Other CrossFormers: the keys that lead to them, or the prefixes of their names.
        others: The other names next to them.
    """

    state: dict[str, Tensor]
    path: tuple[str, ...]
    copies: list[str]
    others: list[str]


def tensors_of(checkpoint: Mapping[str, Any]) -> dict[str, Tensor]:
    """The tensors of a model in a checkpoint; see :func:`find_tensors`."""
    return find_tensors(checkpoint).state


def find_tensors(checkpoint: Mapping[str, Any], known: Collection[str] = ()) -> Found:
    """Find the tensors of a model in a checkpoint of any kind, under any key and with any prefix.

    Of several CrossFormers, weights are preferred to their averages. (MMEngine's ``EMAHook`` saves the
    averages as ``state_dict``.)

    Args:
        checkpoint: From :func:`~.reader.read_checkpoint`.
        known: Names of the tensors of the model to be loaded; a prefix that it has itself is kept.

    Raises:
        UserError: There are none, or those of several models.
    """
    candidates = sorted(_state_dicts(checkpoint), key=_preference)
    if not candidates:
        raise UserError(f'holds no tensors, but {shorten(map(key_text, checkpoint)) or "nothing"}')
    (path, content), *rest = candidates
    named = {key: v for key, v in content.items() if isinstance(key, str) and isinstance(v, Tensor)}
    tensors = {unwrapped(name): tensor for name, tensor in named.items()}
    others = [key_text(key) for key in content if key not in named]
    if len(tensors) < len(named):
        raise UserError(f'holds two tensors of one name, with and without {" or ".join(WRAPPERS)}')
    copies = ['.'.join(keys) for keys, state in rest if _prefixes(state)]
    prefixes = _prefixes(tensors)
    prefix = '' if any(name in tensors for name in known) else _preferred(prefixes)
    left = tuple(other for other in prefixes if other not in ('', prefix))
    state = {}
    for name, tensor in tensors.items():
        if name in known or not name.startswith(left):
            if name.startswith(prefix) and (name in known or name not in COUNTERS):
                state[name.removeprefix(prefix)] = tensor
            else:
                others.append(name)
    return Found(state, path, [*copies, *left], others)


def key_text(key: Any) -> str:
    """A key of a checkpoint, for messages; the text of a tuple or number could be of any length."""
    return key if isinstance(key, str) else type(key).__name__


def unwrapped(name: str) -> str:
    """A tensor's name without the parts that torch's wrappers add."""
    return '.'.join(part for part in name.split('.') if part not in WRAPPERS)


def _state_dicts(
    value: Mapping[Any, Any], path: tuple[str, ...] = (), seen: set[int] | None = None
) -> Iterator[tuple[tuple[str, ...], Mapping[Any, Any]]]:
    """The dicts that contain tensors, at any depth, and the keys that lead to them; each dict once."""
    seen = set() if seen is None else seen
    seen.add(id(value))
    if any(isinstance(key, str) and isinstance(item, Tensor) for key, item in value.items()):
        yield path, value
    if len(path) == DEPTH:
        return
    for key, item in value.items():
        is_inner = isinstance(key, str) and key not in NO_WEIGHTS and isinstance(item, Mapping)
        if is_inner and id(item) not in seen:
            yield from _state_dicts(item, (*path, key), seen)


def _preference(candidate: tuple[tuple[str, ...], Mapping[Any, Any]]) -> tuple:
    """The sorting key of a dict with tensors."""
    path, content = candidate
    last = path[-1] if path else ''
    place = CONTAINERS.index(last) if last in CONTAINERS else len(CONTAINERS)
    return not _prefixes(content), bool(AVERAGE.search('.'.join(path))), place, -len(content)


def _prefixes(names: Iterable[Any]) -> list[str]:
    """The prefixes of the models with a CrossFormer that the names belong to."""
    first = f'.{OURS[1]}'
    dotted = [f'.{unwrapped(name)}' for name in names if isinstance(name, str)]
    ends = [name.removesuffix(first).removesuffix('.backbone') for name in dotted if name.endswith(first)]
    return list(dict.fromkeys(f'{end}.'[1:] for end in ends))


def _preferred(prefixes: list[str]) -> str:
    if '' in prefixes or not prefixes:
        return ''
    plain = [prefix for prefix in prefixes if not AVERAGE.search(prefix)] or prefixes
    if len(plain) > 1:
        raise UserError(f'holds several models, {shorten(plain)}; choose one by prefix=… in an init_cfg')
    return plain[0]


def strip_prefix(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names start with ``prefix``, without it."""
    return {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}


def backbone_of(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The backbone's tensors among those of a complete model, a classifier or a backbone."""
    inner = strip_prefix(state, BACKBONE) or state
    return {name: tensor for name, tensor in inner.items() if not name.startswith(CLASSIFIER)}


def model_kind(state: Mapping[str, Tensor]) -> str:
    """The kind of model that the tensors belong to: 'segmentor', 'detector', 'classifier' or 'backbone'."""
    for kind, prefixes in HEADS.items():
        if any(name.startswith(prefixes) for name in state):
            return kind
    return 'backbone'


def is_released_classifier(state: Mapping[str, Tensor]) -> bool:
    """Whether the tensors are a classifier's, under the published names: the backbone's have no prefix."""
    return model_kind(state) == 'classifier' and not any(name.startswith(BACKBONE) for name in state)


def classifier_of(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A released classifier's tensors, with their names in MMPretrain's ``ImageClassifier``.

    The backbone's get the prefix ``backbone.``; ``norm`` and ``head`` become ``head.norm`` and ``head.fc``,
    which this package's ``CrossFormerClsHead`` has. :func:`released_of` is the exact inverse.
    """
    return _renamed(state, PUBLISHED)


def released_of(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of an ``ImageClassifier`` with this package's head, under the published names."""
    return _renamed(state, [(ours, published) for published, ours in PUBLISHED])


def classes_in(state: Mapping[str, Tensor]) -> int:
    """The number of classes of a classifier's tensors, under either names; 0 if it cannot be told."""
    heads = (state[name] for name in ('head.fc.weight', 'head.weight') if name in state)
    return next((tensor.shape[0] for tensor in heads if tensor.dim()), 0)


def _renamed(state: Mapping[str, Tensor], prefixes: Iterable[tuple[str, str]]) -> dict[str, Tensor]:
    def renamed(name: str) -> str:
        pairs = ((old, new) for old, new in prefixes if name.startswith(old))
        old, new = next(pairs, ('', ''))
        return new + name.removeprefix(old)

    return {renamed(name): tensor for name, tensor in state.items()}


def select_tensors(state: Mapping[str, Tensor], to: str) -> tuple[dict[str, Tensor], dict[str, list[str]]]:
    """Select the tensors that a model of the current toolboxes needs.

    The tensors of the published models with CrossFormer (RetinaNet, Mask and Cascade Mask R-CNN, Semantic
    FPN, UPerNet) have the same names in MMDetection 2.x and 3.x, and in MMSegmentation 0.x and 1.x. Only the
    tensors that hooks added are dropped.

    Args:
        state: The tensors of a checkpoint, see :func:`tensors_of`.
        to: 'backbone', 'detector', 'segmentor' or 'classifier'.

    Returns:
        The selected tensors, for a backbone without prefix; and the names of the others by reason.
    """
    kept, dropped = {}, {}
    has_prefix = to in ('detector', 'segmentor') or any(name.startswith(BACKBONE) for name in state)
    for name, tensor in state.items():
        if reason := _why_dropped(name, to, has_prefix):
            dropped.setdefault(reason, []).append(name)
        else:
            kept[name if to != 'backbone' else name.removeprefix(BACKBONE)] = tensor
    return kept, dropped


def _why_dropped(name: str, to: str, has_prefix: bool) -> str | None:
    if name.startswith(AVERAGED):
        return "the averaging hook's copies"
    if name.endswith(DERIVED_BUFFERS):
        return 'buffers that the network computes itself'
    if to == 'classifier':
        return None
    if name.removeprefix(BACKBONE if has_prefix else '').startswith(CLASSIFIER):
        return "the classifier's norm and head"
    if has_prefix and to == 'backbone' and not name.startswith(BACKBONE):
        return 'neck and heads'
    return None


def arch_of(state: Mapping[str, Tensor]) -> Arch:
    """The arch of the CrossFormer that the tensors belong to, which may be part of a larger model.

    Raises:
        UserError: The tensors belong to another network, or stages are missing.
    """
    backbone = backbone_of(state)
    if any(name not in backbone for name in OURS):
        raise UserError(f'holds no CrossFormer{_other_network(state)}')
    heads = [_tensor_of_heads(backbone, stage) for stage in range(STAGES)]
    if any(tensor is None for tensor in heads):
        present = [str(s + 1) for s, tensor in enumerate(heads) if tensor is not None]
        raise UserError(f'holds only the stages {", ".join(present)} of the {STAGES} of a CrossFormer')
    if any(tensor.dim() == 0 for tensor in (backbone[OURS[0]], *heads)):
        raise UserError('holds no CrossFormer: some of its tensors are single numbers')
    width = HEAD_WIDTH if ABSOLUTE in backbone else 1
    return Arch(
        embed_dims=backbone[OURS[0]].shape[0],
        depths=tuple(_depth(backbone, stage) for stage in range(STAGES)),
        num_heads=tuple(max(1, tensor.shape[0] // width) for tensor in heads),
        acl=any('.ex_conv.' in name for name in backbone),
    )


def _tensor_of_heads(backbone: Mapping[str, Tensor], stage: int) -> Tensor | None:
    """A tensor of a stage with an entry for each head or, if there are no biases, each channel of a head."""
    names = ('attn.proj.weight',) if ABSOLUTE in backbone else ('attn.pos.pos3.2.weight', RELATIVE)
    tensors = (backbone.get(f'layers.{stage}.blocks.0.{name}') for name in names)
    return next((tensor for tensor in tensors if tensor is not None), None)


def ablation_of(state: Mapping[str, Tensor], arch: Arch) -> dict[str, Any]:
    """The arguments of a CrossFormer that give it the tensors of ``state``, besides its arch.

    Args:
        state: The tensors of a CrossFormer.
        arch: Its arch, from :func:`arch_of`.
    """
    backbone = backbone_of(state)
    first = [OURS[1], *(f'layers.{s}.downsample.reductions.0.weight' for s in range(STAGES - 1))]
    single = [name in backbone and len(backbone[name]) == arch.dims(s) for s, name in enumerate(first)]
    settings = {'cross_scale_stages': [*single, True].index(True)}
    tables = [backbone.get(f'layers.{s}.blocks.0.{RELATIVE}') for s in range(STAGES)]
    if ABSOLUTE in backbone:
        settings['position'] = 'ape'
    elif all(table is not None for table in tables):  # of 2G − 1 rows each, with one group size per layer
        sizes = [(table.shape[-1] + 1) // 2 for table in tables]
        settings |= {'position': 'rpb', 'group_sizes': sizes, 'long_distance': 'window'}
    return settings


def recognise_arch(state: Mapping[str, Tensor]) -> str:
    """The arch of a CrossFormer's tensors, as text: its name, or the dict to pass as ``arch``.

    Raises:
        UserError: The tensors belong to another network, or stages are missing.
    """
    return describe_arch(arch_of(state))


def describe_arch(arch: Arch) -> str:
    """The name of a published arch, or the dict to pass as ``arch`` for another one."""
    for name, published in ARCHS.items():
        if dataclasses.replace(published, drop_path_rate=arch.drop_path_rate) == arch:
            return name
    fields = f'embed_dims={arch.embed_dims}, depths={arch.depths}, num_heads={arch.num_heads}'
    return f'dict({fields}, acl=True)' if arch.acl else f'dict({fields})'


def _depth(backbone: Mapping[str, Tensor], stage: int) -> int:
    pattern = re.compile(rf'layers\.{stage}\.blocks\.(\d+)\.')
    return len({match[1] for match in map(pattern.match, backbone) if match})


def _other_network(state: Mapping[str, Tensor]) -> str:
    for network, pattern in OTHER_NETWORKS.items():
        if any(re.search(pattern, name) for name in state):
            return f', it looks like {network}'
    return f': its first tensors are {shorten(state)}'
