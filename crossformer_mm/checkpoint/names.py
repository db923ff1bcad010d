"""Find the tensors of a checkpoint, and recognise the model and arch by their names and shapes."""

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ..models.arch import ARCHS, STAGES, Arch
from ..models.crossformer import DERIVED_BUFFERS
from ..utils.errors import UserError
from ..utils.text import shorten

CONTAINERS = ('state_dict', 'model')  # of the toolboxes; of the classification releases
DISTRIBUTED = 'module.'
BACKBONE = 'backbone.'
CLASSIFIER = ('norm.', 'head.')
AVERAGED = 'ema_'  # prefix of the copies that MMCV 1.x's averaging hook adds
HEADS = {
    'segmentor': ('decode_head.', 'auxiliary_head.'),
    'detector': ('rpn_head.', 'roi_head.', 'bbox_head.'),
    'classifier': ('head.',),
}

# Tensors that every CrossFormer has, and those that identify other networks, the most specific first.
OURS = (
    'patch_embed.norm.weight',
    'patch_embed.projs.0.weight',
    'layers.0.blocks.0.attn.pos.pos_proj.weight',
)
OTHER_NETWORKS = {
    'Swin': r'relative_position_bias_table',
    'ResNet': r'(^|\.)layer1\.0\.conv1\.weight',
    'ConvNeXt': r'(^|\.)(gamma|depthwise_conv\.weight|dwconv\.weight)',
    'ViT': r'(^|\.)(cls_token|pos_embed)$',
    'PVT': r'(^|\.)patch_embed1\.',
}


def tensors_of(checkpoint: Mapping[str, Any]) -> dict[str, Tensor]:
    """The tensors of a checkpoint of any kind, without the prefix of distributed training.

    Raises:
        UserError: It has none.
    """
    inner = next((checkpoint[key] for key in CONTAINERS if _is_state_dict(checkpoint.get(key))), None)
    state = checkpoint if inner is None else inner
    if not _is_state_dict(state):
        found = shorten(map(str, checkpoint)) or 'nothing'
        raise UserError(f'holds no tensors under {" or ".join(CONTAINERS)}, but {found}')
    if all(name.startswith(DISTRIBUTED) for name in state):
        state = strip_prefix(state, DISTRIBUTED)
    return dict(state)


def _is_state_dict(value: Any) -> bool:
    return (
        isinstance(value, Mapping)
        and len(value) > 0
        and all(isinstance(k, str) and isinstance(v, Tensor) for k, v in value.items())
    )


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


def select_tensors(state: Mapping[str, Tensor], to: str) -> tuple[dict[str, Tensor], dict[str, list[str]]]:
    """Select the tensors that a model of the current toolboxes needs.

    The tensors of the published models with CrossFormer (RetinaNet, Mask and Cascade Mask R-CNN, Semantic
    FPN, UPerNet) have the same names in MMDetection 2.x and 3.x, and in MMSegmentation 0.x and 1.x. Only the
    tensors that hooks added are dropped.

    Args:
        state: The tensors of a checkpoint, see :func:`tensors_of`.
        to: 'backbone', 'detector' or 'segmentor'.

    Returns:
        The selected tensors, for a backbone without prefix; and the names of the others by reason.
    """
    kept, dropped = {}, {}
    has_prefix = to != 'backbone' or any(name.startswith(BACKBONE) for name in state)
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
    if has_prefix and to == 'backbone' and not name.startswith(BACKBONE):
        return 'neck and heads'
    if name.removeprefix(BACKBONE if has_prefix else '').startswith(CLASSIFIER):
        return "the classifier's norm and head"
    return None


def arch_of(state: Mapping[str, Tensor]) -> Arch:
    """The arch of the CrossFormer that the tensors belong to, which may be part of a larger model.

    Raises:
        UserError: The tensors belong to another network, or stages are missing.
    """
    backbone = backbone_of(state)
    if any(name not in backbone for name in OURS):
        raise UserError(f'holds no CrossFormer{_other_network(state)}')
    heads = [backbone.get(f'layers.{s}.blocks.0.attn.pos.pos3.2.weight') for s in range(STAGES)]
    if any(weight is None for weight in heads):
        present = [str(s + 1) for s, weight in enumerate(heads) if weight is not None]
        raise UserError(f'holds only the stages {", ".join(present)} of the {STAGES} of a CrossFormer')
    return Arch(
        embed_dims=backbone[OURS[0]].shape[0],
        depths=tuple(_depth(backbone, stage) for stage in range(STAGES)),
        num_heads=tuple(weight.shape[0] for weight in heads),
        acl=any('.ex_conv.' in name for name in backbone),
    )


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
