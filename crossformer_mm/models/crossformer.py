"""The CrossFormer and CrossFormer++ backbones in plain PyTorch, smallest parts first.

Papers: CrossFormer (ICLR 2022, arXiv 2108.00154), CrossFormer++ (TPAMI 2023, arXiv 2303.06908). Tensor names
are those of the released checkpoints.

Notation: B batch, H W map height and width, C channels, G group size, I interval, h heads, d channels per
head, N tokens per group, L lists of T tokens as in :mod:`.grouping`. Maps are (B, H, W, C) inside and
(B, C, H, W) at the outputs.

This module contains the complete network, for any device and any transform, except attention's core
(:mod:`.attention`) and how it learns positions (:mod:`.position`). On CPUs, :mod:`.ops` computes the first
embedding and the two branches of a block faster, with the same results.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.model import BaseModule, PretrainedInit
from mmengine.registry import WEIGHT_INITIALIZERS
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..compat import is_traced_for_onnx, is_transformed, sizes, unseen
from . import ops
from .arch import (
    ARCHS,
    STAGES,
    Arch,
    check_cross_scale_stages,
    check_frozen_stages,
    check_layout,
    check_out_indices,
    check_position,
    check_rates,
    check_stages,
    resolve_arch,
)
from .attention import attend
from .grouping import Grouping, GroupRule, find_groups, reorder
from .position import SIDE, AbsolutePositionEmbedding, RelativePositionBias, position_bias

__all__ = ['ARCHS', 'CrossFormer']

STEM_KERNELS, STEM_STRIDE = (4, 8, 16, 32), 4
STAGE_KERNELS, STAGE_STRIDE = (2, 4), 2
MLP_RATIO = 4
IMAGE_CHANNELS = 3

STANDARD_GROUP_SIZES, STANDARD_INTERVALS = (7, 7, 7, 7), (8, 4, 2, 1)
DERIVED_BUFFERS = ('.attn.biases', '.attn.relative_position_index')  # in the oldest releases; computed here


class DropPath(nn.Module):
    """Stochastic depth: training drops an image's whole residual branch with probability ``rate``."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        """(B, ...) → (B, ...); branches that are kept are scaled to preserve the mean."""
        if not self.training or self.rate == 0:
            return x
        return x * (self.draw(x) * self.scale).view(-1, *[1] * (x.dim() - 1))

    def draw(self, x: Tensor) -> Tensor:
        """A random mask (B): 1 for each image that keeps its branch and 0 for the others."""
        return x.new_empty(x.shape[0]).bernoulli_(1 - self.rate)

    @property
    def scale(self) -> float:
        """The factor for branches that are kept."""
        return 1 / (1 - self.rate) if self.rate < 1 else 1.0

    def extra_repr(self) -> str:
        return f'rate={self.rate:g}'


def split_channels(channels: int, kernels: int) -> list[int]:
    """Divide output channels among kernels: half to the smallest, a quarter to the next, and so on.

    The last two get the same number (CrossFormer, section 3.1).
    """
    return [channels >> min(i + 1, kernels - 1) for i in range(kernels)]


class CrossScaleConvs(nn.ModuleList):
    """Convolutions with one stride and increasing kernels (CEL, CrossFormer, section 3.1)."""

    def __init__(self, in_channels: int, out_channels: int, kernels: Sequence[int], stride: int) -> None:
        shares = split_channels(out_channels, len(kernels))
        super().__init__(
            nn.Conv2d(in_channels, share, kernel, stride, padding=(kernel - stride) // 2)
            for kernel, share in zip(kernels, shares, strict=True)
        )
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) → (B, ⌈H/stride⌉, ⌈W/stride⌉, out channels); zeros complete the last patches."""
        if x.device.type == 'cpu' and not torch.compiler.is_compiling() and x.shape[3] <= self.stride:
            # In bfloat16, oneDNN leaves parts of a tall map with one column unwritten: compute two, drop one.
            return self._convolve(F.pad(x, (0, self.stride)))[:, :, :-1]
        return self._convolve(x)

    def _convolve(self, x: Tensor) -> Tensor:
        if ops.replaces_convs(self, x):
            return ops.embed_cells(self, x)
        H, W = x.shape[2:]
        # Padding by stride − 1 completes the last patch for any size and never starts another one, so that a
        # compiled program need not depend on the remainder.
        if torch.compiler.is_compiling() or H % self.stride or W % self.stride:
            x = F.pad(x, (0, self.stride - 1, 0, self.stride - 1))
        return torch.cat([conv(x) for conv in self], dim=1).permute(0, 2, 3, 1)


class PatchEmbed(nn.Module):
    """The embedding of stage 1: from pixels to tokens of 4×4 pixels, with kernels of four sizes or of one.

    Args:
        embed_dims: C.
        cross_scale: Whether there are four kernels.
        has_positions: Whether an absolute position embedding is added.
    """

    def __init__(self, embed_dims: int, cross_scale: bool = True, has_positions: bool = False) -> None:
        super().__init__()
        kernels = STEM_KERNELS if cross_scale else [STEM_STRIDE]
        self.projs = CrossScaleConvs(IMAGE_CHANNELS, embed_dims, kernels, STEM_STRIDE)
        self.norm = nn.LayerNorm(embed_dims)
        self.pos = AbsolutePositionEmbedding(embed_dims) if has_positions else None

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, height, width) → (B, ⌈height/4⌉, ⌈width/4⌉, C)."""
        x = self.norm(self.projs(images))
        return x if self.pos is None else self.pos(x)


class Downsample(nn.Module):
    """The embedding between stages: a norm, then two kernels or one; halves the map, doubles the channels."""

    def __init__(self, dims: int, cross_scale: bool = True) -> None:
        super().__init__()
        kernels = STAGE_KERNELS if cross_scale else [STAGE_STRIDE]
        self.norm = nn.LayerNorm(dims)
        self.reductions = CrossScaleConvs(dims, 2 * dims, kernels, STAGE_STRIDE)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) → (B, ⌈H/2⌉, ⌈W/2⌉, 2C)."""
        return self.reductions(self.norm(x).permute(0, 3, 1, 2))


class Attention(nn.Module):
    """Long short distance attention (LSDA, CrossFormer, section 3.2): self-attention within groups of tokens.

    Args:
        dims: C.
        num_heads: h.
        groups: Which tokens attend to each other.
        attn_drop_rate: Dropout of the attention weights.
        drop_rate: Dropout of the output.
        position: How it learns positions, see :func:`~.position.position_bias`.
        side: Tokens on a side of the map of an image of 224×224.
    """

    def __init__(
        self,
        dims: int,
        num_heads: int,
        groups: GroupRule,
        attn_drop_rate: float,
        drop_rate: float,
        position: str = 'dpb',
        side: int = SIDE,
    ) -> None:
        super().__init__()
        self.dims = dims
        self.num_heads = num_heads
        self.groups = groups
        self.qkv = nn.Linear(dims, 3 * dims)
        self.pos = position_bias(position, dims, num_heads, groups, side)
        self.attn_drop = nn.Dropout(attn_drop_rate)
        self.proj = nn.Linear(dims, dims)
        self.proj_drop = nn.Dropout(drop_rate)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) → (B, H, W, C)."""
        B, H, W, C = sizes(x)
        grouping = self.groups(H, W)
        B = 1 if torch.jit.is_tracing() else B  # maps that are grouped together
        groups = find_groups(x, B, H, W, grouping.span, grouping.interval)
        # (B, H, W, C) → (L, T, C) in the order of the groups → (L, T, 3C) → (L, T, C) → (B, H, W, C)
        qkv = self.qkv(reorder(x.reshape(-1, B * H * W, C), groups.order, groups.inverse))
        dropout = self.attn_drop.p if self.attn_drop.training else 0.0
        out = self.proj(attend(qkv, self.biases(H, W, grouping), groups.blocks, dropout, self.num_heads))
        return self.proj_drop(reorder(out, groups.inverse, groups.order).view(-1, H, W, C))

    def biases(self, H: int, W: int, grouping: Grouping) -> Tensor | None:
        """The biases of all offsets in the groups of a map of H × W tokens; None if positions are absolute.

        Returns:
            (h, 2·rows − 1, 2·columns − 1), as :meth:`~.position.DynamicPositionBias.forward`.

        Raises:
            UncoveredGroups: A learned table is too small; it is a ValueError.
        """
        if self.pos is None:
            return None
        if isinstance(self.pos, RelativePositionBias):
            self.pos.check_covers(H, W, grouping)
        if is_traced_for_onnx():  # a small constant, not the operators that compute it
            with unseen():
                return self.pos(grouping.rows, grouping.columns).detach()
        return self.pos(grouping.rows, grouping.columns)


class MLP(nn.Module):
    """Two linear layers with an exact GELU between them."""

    def __init__(self, dims: int, drop_rate: float = 0.0) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dims, MLP_RATIO * dims)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(MLP_RATIO * dims, dims)
        self.drop = nn.Dropout(drop_rate)

    def forward(self, x: Tensor) -> Tensor:
        """(..., C) → (..., C)."""
        return self.drop(self.fc2(self.drop(self.act(self.fc1(x)))))


class Block(nn.Module):
    """A pre-norm transformer block; if ``cooled``, with an activation cooling layer after it.

    The cooling layer (ACL, CrossFormer++, section 3.2) is a depthwise convolution and a norm, without a
    residual connection: it keeps the amplitude of the residual stream from growing with depth.
    """

    replaceable = ops.Layers(  # by the kernels for CPUs
        {
            'norm1': nn.LayerNorm,
            'attn': Attention,
            'attn.qkv': nn.Linear,
            'attn.attn_drop': nn.Dropout,
            'attn.proj': nn.Linear,
            'attn.proj_drop': nn.Dropout,
            'norm2': nn.LayerNorm,
            'mlp': MLP,
            'mlp.fc1': nn.Linear,
            'mlp.act': nn.GELU,
            'mlp.fc2': nn.Linear,
            'mlp.drop': nn.Dropout,
            'drop_path': DropPath,
        }
    )

    def __init__(
        self, attn: Attention, cooled: bool, drop_rate: float, drop_path_rate: float, with_cp: bool = False
    ) -> None:
        super().__init__()
        dims = attn.dims
        self.with_cp = with_cp
        self.norm1 = nn.LayerNorm(dims)
        self.attn = attn
        self.norm2 = nn.LayerNorm(dims)
        self.mlp = MLP(dims, drop_rate)
        self.drop_path = DropPath(drop_path_rate)
        self.ex_conv = nn.Conv2d(dims, dims, 3, padding=1, groups=dims) if cooled else None
        self.ex_ln = nn.LayerNorm(dims) if cooled else None

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) → (B, H, W, C)."""
        if type(self) is Block and ops.replaces_branches(self, x):
            return self._cool(ops.add_branches(self, x))
        if self.with_cp and torch.is_grad_enabled() and not is_transformed():
            return checkpoint(self._forward, x, use_reentrant=False)
        return self._forward(x)

    def _forward(self, x: Tensor) -> Tensor:
        x = x + self.drop_path(self.attn(self.norm1(x)))
        return self._cool(x + self.drop_path(self.mlp(self.norm2(x))))

    def _cool(self, x: Tensor) -> Tensor:
        if self.ex_conv is None:
            return x
        return self.ex_ln(self.ex_conv(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1))


class Stage(nn.Module):
    """Blocks of one width, and the embedding to the next stage, if there is one.

    Args:
        arch: The size of the whole network.
        stage: The index of the stage, from 0.
        last: Whether it is the last one, without an embedding.
        groups: The rules of short and of long distance attention, which alternate.
        position: How attention learns positions, see :func:`~.position.position_bias`.
        cross_scale: Whether the embedding to the next stage has two kernels.
        drop_paths: Stochastic depth of each block.
        drop_rate: Dropout in the MLPs and after attention.
        attn_drop_rate: Dropout of attention weights.
        with_cp: Recompute each block in the backward pass instead of keeping its activations.
    """

    def __init__(
        self,
        arch: Arch,
        stage: int,
        last: bool,
        groups: tuple[GroupRule, GroupRule],
        position: str,
        cross_scale: bool,
        drop_paths: Sequence[float],
        drop_rate: float,
        attn_drop_rate: float,
        with_cp: bool,
    ) -> None:
        super().__init__()
        dims, num_heads = arch.dims(stage), arch.num_heads[stage]
        self.blocks = nn.ModuleList()
        for i, drop_path_rate in enumerate(drop_paths):
            rates = (attn_drop_rate, drop_rate)
            attn = Attention(dims, num_heads, groups[i % 2], *rates, position, SIDE >> stage)
            self.blocks.append(Block(attn, arch.is_cooled(stage, i), drop_rate, drop_path_rate, with_cp))
        self.downsample = None if last else Downsample(dims, cross_scale)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) → (B, H, W, C), the map after the last block."""
        for block in self.blocks:
            x = block(x)
        return x


def init_linear(module: nn.Module) -> None:
    """Linear weights from a truncated normal of deviation 0.02, with zero biases, as in Swin and others.

    The papers do not state initial values. Convolutions keep PyTorch's: with zero biases, an image's
    zero-padded area would be zero up to the first norms, whose gradient is 1/√ε there.
    """
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)


def loads_file(setting: Mapping[str, Any]) -> bool:
    """Whether a setting of ``init_cfg`` loads a file, in any notation that MMEngine takes."""
    name = setting.get('type')
    return name is PretrainedInit or str(name).rpartition('.')[2] == 'Pretrained'


class CrossFormer(BaseModule):
    """The CrossFormer and CrossFormer++ backbones.

    Images may have any size from 1×1 on, a different one at each call.

    Args:
        arch: A name in :data:`ARCHS`, or a dict with ``embed_dims`` (C of stage 1, a multiple of 16),
            ``depths``, ``num_heads`` (one per stage) and optionally ``acl``, ``drop_path_rate``.
        group_sizes: G of each stage. None means the standard setting, 7 7 7 7.
        intervals: I of each stage. None means the standard setting, 8 4 2 1. Neither changes the shapes of
            weights.
        long_distance: What a group of long distance attention spans. ``'map'``: the whole map, as in the
            CrossFormer paper and in the released detectors and segmentors. ``'window'``: a macro-window of
            G·I × G·I tokens, as in the authors' code since December 2023 and their ++ classifiers. The two
            agree on 224×224 images with the standard setting. Otherwise they compute different outputs from
            the same weights, and a checkpoint's tensors do not show which one it was trained with.
            ``'none'`` (an ablation): all blocks have short distance attention, as Swin's without shift.
        adaptive_intervals: In layout ``'window'``, compute I from each map instead: ⌈max(H, W) / G⌉.
        out_indices: Stages whose maps are returned. Later stages are not built.
        frozen_stages: −1 freezes nothing, 0 the first embedding, n also the first n stages with the
            embeddings after them: no gradient, and always evaluation mode.
        drop_path_rate: Stochastic depth of the last block; it increases linearly from 0 at the first. None
            means the arch's own.
        drop_rate: Dropout after the first embedding, in the MLPs and after attention.
        attn_drop_rate: Dropout of attention weights.
        with_cp: Activation checkpointing: recompute each block in the backward pass instead of keeping its
            activations.
        pretrained: A checkpoint file, which older configs of the toolboxes give instead of ``init_cfg``.
        init_cfg: None initialises as published. ``dict(type='Pretrained', checkpoint=FILE)`` loads a
            classification, backbone, detector or segmentor checkpoint, and raises if it does not fit;
            ``prefix`` selects one of several models in it. FILE may be an arch's name, for its file in the
            cache, if no file is called so.
        position: How attention learns positions, one of the paper's ablations. ``'dpb'``: dynamic position
            bias. ``'dpb_residual'``: the same with residual connections around its hidden layers.
            ``'rpb'``: a learned table of biases per block and head, which covers the groups of 224×224
            images; maps with larger groups are refused. ``'ape'``: no biases, but a learned vector for each
            of the 56×56 tokens of such an image, interpolated (bicubic) for maps of other sizes.
        cross_scale_stages: Number of stages, from the first, whose embedding has kernels of several sizes
            (CEL), also an ablation. Later embeddings have only the smallest: 4×4 in stage 1, 2×2 in others.

    Attributes:
        out_channels: Channels of each output.
        settings: The arguments on which outputs depend besides the weights, as plain values.

    Raises:
        ValueError: An argument is invalid; the message names it and the valid values.
    """

    def __init__(
        self,
        arch: str | Mapping[str, Any] = 's',
        group_sizes: Sequence[int] | None = None,
        intervals: Sequence[int] | None = None,
        long_distance: str = 'map',
        adaptive_intervals: bool = False,
        out_indices: Sequence[int] = (0, 1, 2, 3),
        frozen_stages: int = -1,
        drop_path_rate: float | None = None,
        drop_rate: float = 0.0,
        attn_drop_rate: float = 0.0,
        with_cp: bool = False,
        pretrained: str | None = None,
        init_cfg: dict | None = None,
        position: str = 'dpb',
        cross_scale_stages: int = STAGES,
    ) -> None:
        if pretrained and init_cfg:
            raise ValueError(f'pretrained={pretrained!r} and init_cfg={init_cfg}: give one of them')
        super().__init__(dict(type='Pretrained', checkpoint=pretrained) if pretrained else init_cfg)
        named, arch = arch if isinstance(arch, str) else None, resolve_arch(arch)
        group_sizes = check_stages(
            'group_sizes', STANDARD_GROUP_SIZES if group_sizes is None else group_sizes
        )
        intervals = check_stages('intervals', STANDARD_INTERVALS if intervals is None else intervals)
        check_layout(long_distance, adaptive_intervals)
        check_position(position)
        check_cross_scale_stages(cross_scale_stages)
        drop_path_rate = arch.drop_path_rate if drop_path_rate is None else drop_path_rate
        check_rates(drop_path_rate=drop_path_rate, drop_rate=drop_rate, attn_drop_rate=attn_drop_rate)
        self.out_indices = check_out_indices(out_indices)
        self.frozen_stages = check_frozen_stages(frozen_stages)
        self.long_distance = long_distance
        self.settings = dict(
            arch=named or dataclasses.asdict(arch),
            group_sizes=group_sizes,
            intervals=intervals,
            long_distance=long_distance,
            adaptive_intervals=bool(adaptive_intervals),
            out_indices=self.out_indices,
            position=position,
            cross_scale_stages=cross_scale_stages,
        )
        self.out_channels = tuple(arch.dims(s) for s in self.out_indices)

        self.patch_embed = PatchEmbed(arch.embed_dims, cross_scale_stages > 0, position == 'ape')
        self.pos_drop = nn.Dropout(drop_rate)
        total = sum(arch.depths)
        drop_paths = [drop_path_rate * i / max(total - 1, 1) for i in range(total)]
        last = self.out_indices[-1]
        self.layers = nn.ModuleList()
        for s in range(last + 1):
            first = sum(arch.depths[:s])
            self.layers.append(
                Stage(
                    arch,
                    s,
                    last=s == last,
                    groups=tuple(
                        GroupRule(group_sizes[s], intervals[s], long, long_distance, adaptive_intervals)
                        for long in (False, long_distance != 'none')
                    ),
                    position=position,
                    cross_scale=cross_scale_stages > s + 1,
                    drop_paths=drop_paths[first : first + arch.depths[s]],
                    drop_rate=drop_rate,
                    attn_drop_rate=attn_drop_rate,
                    with_cp=with_cp,
                )
            )
        self.apply(init_linear)
        self._freeze()

    @classmethod
    def from_pretrained(cls, source: str | Path, **arguments: Any) -> 'CrossFormer':
        """Build a network with the weights of a file, in evaluation mode.

        Args:
            source: A checkpoint of any kind that ``init_cfg`` loads; a folder that :meth:`save_pretrained`
                wrote; or the name of a published arch, for its file in the cache.
            arguments: Of the constructor, instead of those that a folder's ``config.json``, or the file,
                states. Files of other programs show arch, position and kernels, but not groups nor, often,
                ``long_distance``; what is not known has the constructor's default.

        Raises:
            UserError: There are no such weights, or they do not fit the arguments, or these are invalid.
        """
        from ..checkpoint.pretrained import from_pretrained  # above this package, see docs/architecture.md

        return from_pretrained(cls, source, **arguments)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write ``model.safetensors``, and ``config.json`` with :attr:`settings`.

        Args:
            folder: The folder, created if missing. Files that this project did not write are not replaced.

        Raises:
            UserError: The files cannot be written, or weights are NaN or infinite.
        """
        from ..checkpoint.pretrained import save_pretrained

        save_pretrained(self, folder)

    def init_weights(self) -> None:
        """Load the weights that ``init_cfg`` names, if any; otherwise the constructor's stay.

        Raises:
            UserError: The file cannot be read, or its tensors do not fit this network exactly.
        """
        own = self.init_cfg
        settings = [own] if isinstance(own, dict) else list(own or [])
        files = [setting for setting in settings if loads_file(setting)]
        others = [setting for setting in settings if not loads_file(setting)]
        if others or not files:
            self.init_cfg = others
            super().init_weights()
            self.init_cfg = own
        for setting in files:
            WEIGHT_INITIALIZERS.build({**setting, 'type': 'CrossFormerPretrained'})(self)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Compute the maps of the stages in ``out_indices``.

        Args:
            images: (B, 3, height, width), of any size.

        Returns:
            For stage i (from 0): (B, C·2^i, ⌈height / 2^(i+2)⌉, ⌈width / 2^(i+2)⌉), after the stage's last
            block, with no norm.

        Raises:
            ValueError: The images have another shape, there are none, or a learned table does not cover them.
        """
        if images.dim() != 4 or images.shape[1] != IMAGE_CHANNELS or 0 in images.shape:
            raise ValueError(
                f'images of shape {tuple(images.shape)}: expected (B, {IMAGE_CHANNELS}, height, width)'
                ' with at least one image of 1×1 pixels'
            )
        if torch.jit.is_tracing() and not torch.onnx.is_in_onnx_export():
            # A trace is for one size of images, and this part of it is an error for others.
            H, W = sizes(images)[2:]
            images = images.unflatten(3, (W,)).unflatten(2, (H,))
        x = self.pos_drop(self.patch_embed(images))
        outputs = []
        for s, stage in enumerate(self.layers):
            x = stage(x)
            if s in self.out_indices:
                outputs.append(x.permute(0, 3, 1, 2).contiguous())
            if stage.downsample is not None:
                x = stage.downsample(x)
        return tuple(outputs)

    def train(self, mode: bool = True) -> 'CrossFormer':
        """Set training or evaluation mode; frozen stages stay in evaluation mode."""
        super().train(mode)
        self._freeze()
        return self

    def _freeze(self) -> None:
        for part in [self.patch_embed, *self.layers][: self.frozen_stages + 1]:
            part.eval().requires_grad_(False)

    def ignores(self, name: str) -> bool:
        """Whether a published backbone may contain the tensor ``name``, which this network does not have.

        These are two buffers per block in the oldest releases, and the stages after the last output.
        """
        last = len(self.layers) - 1
        beyond = [f'layers.{last}.downsample.', *(f'layers.{s}.' for s in range(last + 1, STAGES))]
        return name.endswith(DERIVED_BUFFERS) or name.startswith(tuple(beyond))

    def _load_from_state_dict(self, state_dict: dict, prefix: str, *args: Any) -> None:
        for name in [name for name in state_dict if name.startswith(prefix)]:
            if self.ignores(name.removeprefix(prefix)):
                del state_dict[name]
        super()._load_from_state_dict(state_dict, prefix, *args)
