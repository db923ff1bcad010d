"""Recognise a network by its tensors."""

import re
from collections.abc import Mapping

from torch import Tensor

from ..models.arch import ARCHS, STAGES, Arch
from ..utils.errors import UserError
from .names import backbone_of, shorten

# Tensors that give a network away, the more special first.
OTHER_NETWORKS = {
    'Swin': r'relative_position_bias_table',
    'ResNet': r'(^|\.)layer1\.0\.conv1\.weight',
    'ConvNeXt': r'(^|\.)(gamma|depthwise_conv\.weight|dwconv\.weight)',
    'ViT': r'(^|\.)(cls_token|pos_embed)$',
    'PVT': r'(^|\.)patch_embed1\.',
}
OURS = (
    'patch_embed.norm.weight',
    'patch_embed.projs.0.weight',
    'layers.0.blocks.0.attn.pos.pos_proj.weight',
)


def arch_of(state: Mapping[str, Tensor]) -> Arch:
    """The size of the CrossFormer whose tensors these are, alone or in a larger model.

    Raises:
        UserError: They are another network's, or stages are missing.
    """
    backbone = backbone_of(state)
    if any(name not in backbone for name in OURS):
        raise UserError(f'holds no CrossFormer{_looks_like(state)}')
    heads = [backbone.get(f'layers.{s}.blocks.0.attn.pos.pos3.2.weight') for s in range(STAGES)]
    if any(weight is None for weight in heads):
        present = [str(s + 1) for s, weight in enumerate(heads) if weight is not None]
        raise UserError(f'holds only the stages {", ".join(present)} of a CrossFormer, of {STAGES}')
    return Arch(
        embed_dims=backbone[OURS[0]].shape[0],
        depths=tuple(_depth(backbone, stage) for stage in range(STAGES)),
        num_heads=tuple(weight.shape[0] for weight in heads),
        acl=any('.ex_conv.' in name for name in backbone),
    )


def recognise_arch(state: Mapping[str, Tensor]) -> str:
    """The arch of a CrossFormer's tensors: its name, or the dict to give as ``arch``, as text.

    Raises:
        UserError: They are another network's, or stages are missing.
    """
    return describe_arch(arch_of(state))


def describe_arch(arch: Arch) -> str:
    """The name of a published size, or the dict to give as ``arch`` for another."""
    for name, published in ARCHS.items():
        if _shapes(published) == _shapes(arch):
            return name
    fields = f'embed_dims={arch.embed_dims}, depths={arch.depths}, num_heads={arch.num_heads}'
    return f'dict({fields}, acl=True)' if arch.acl else f'dict({fields})'


def _shapes(arch: Arch) -> tuple:
    return arch.embed_dims, arch.depths, arch.num_heads, arch.acl


def _depth(backbone: Mapping[str, Tensor], stage: int) -> int:
    pattern = re.compile(rf'layers\.{stage}\.blocks\.(\d+)\.')
    return len({match[1] for match in map(pattern.match, backbone) if match})


def _looks_like(state: Mapping[str, Tensor]) -> str:
    for network, pattern in OTHER_NETWORKS.items():
        if any(re.search(pattern, name) for name in state):
            return f', it looks like {network}'
    return f': its first tensors are {shorten(state)}'
