"""Multiply-adds by the rule that the authors' published figures fit.

The rule is inferred: their tables do not state it, and every figure in them fits it (see docs/model_zoo.md).
What it has beyond :mod:`.complexity` is computed here, to be added to what is counted there.

Letters: C channels, G group size, I interval, H W map height and width, R S rows and columns of a group, N
tokens of one group.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from torch import Tensor, nn

from .complexity import count
from .crossformer import STEM_STRIDE, Block, CrossFormer
from .grouping import find_groups


@dataclass(frozen=True)
class PublishedCount:
    """Multiply-adds for one image by the rule of the published figures, as a sum.

    Attributes:
        counted: By this package's own rule.
        whole_map: What long distance attention takes more when its groups span the map: all tokens whose row
            and column agree modulo I, instead of those in a macro-window of (G·I)×(G·I).
        padding: qkv, proj and the products of attention for tokens that fill the map up to whole groups.
        small: One for each element that a convolution with a bias or a ReLU layer puts out, or that a
            pooling layer takes.
    """

    counted: int
    whole_map: int
    padding: int
    small: int

    @property
    def total(self) -> int:
        """The sum, which is to be held against a published figure."""
        return self.counted + self.whole_map + self.padding + self.small


def count_as_published(model: nn.Module, height: int, width: int) -> PublishedCount:
    """Count a model by the rule of the published figures.

    Args:
        model: The model, as :func:`.complexity.build_model` gives it, with a CrossFormer of fixed intervals.
        height: Pixels of the image. Every stage's map must be larger than its G, as in what was published.
        width: The same.

    Returns:
        The count, taken apart.

    Raises:
        UserError: As :func:`.complexity.count`.
    """
    with _small_terms(model) as head_terms:
        *_, whole = count(model, height, width)
    blocks = list(_blocks(model.backbone, height, width))
    return PublishedCount(
        whole.multiply_adds,
        whole_map=sum(block.whole_map for block in blocks),
        padding=sum(block.padding for block in blocks),
        small=sum(head_terms) + sum(block.small for block in blocks),
    )


@dataclass(frozen=True)
class _BlockTerms:
    """What the rule has for a block beyond this package's own."""

    block: Block
    index: int
    H: int
    W: int

    @property
    def group(self) -> tuple[int, int]:
        """R and S of a group that the map's edges do not cut: an odd block's spans the map."""
        G, I = self.block.attn.group_size, self.block.attn.interval
        return (-(-self.H // I), -(-self.W // I)) if self.index % 2 else (G, G)

    @property
    def pairs(self) -> int:
        """Real tokens that attend to each other: Σ N² over the groups."""
        return self._pairs(max(self.group))

    @property
    def whole_map(self) -> int:
        attn, (R, S) = self.block.attn, self.group
        pairs = self.pairs - self._pairs(attn.group_size)
        offsets = _offsets(R, S) - _offsets(attn.group_size, attn.group_size)
        position_bias = sum(layer.weight.numel() for layer in attn.pos.modules() if _is_linear(layer))
        return 2 * attn.dims * pairs + position_bias * offsets

    @property
    def padding(self) -> int:
        C, I, (R, S) = self.block.attn.dims, self.block.attn.interval, self.group
        padded = _round_up(self.H, R * I) * _round_up(self.W, S * I)
        return 4 * C**2 * (padded - self.H * self.W) + 2 * C * (padded * R * S - self.pairs)

    @property
    def small(self) -> int:
        """ReLUs of the position bias; biases of the embedding before a stage and of cooling layers."""
        pos = self.block.attn.pos
        relus = sum(isinstance(layer, nn.ReLU) for layer in pos.modules())
        convolutions = (self.index == 0) + (self.block.ex_conv is not None)
        biases = convolutions * self.H * self.W * self.block.attn.dims
        return relus * pos.pos_proj.out_features * _offsets(*self.group) + biases

    def _pairs(self, group_size: int) -> int:
        groups = find_groups(1, self.H, self.W, group_size, self.block.attn.interval)
        return sum(run.count * run.tokens**2 for run in groups.runs)


def _blocks(backbone: CrossFormer, height: int, width: int) -> Iterator[_BlockTerms]:
    for s, stage in enumerate(backbone.layers):
        stride = STEM_STRIDE * 2**s
        for i, block in enumerate(stage.blocks):
            yield _BlockTerms(block, i, -(-height // stride), -(-width // stride))


@contextmanager
def _small_terms(model: nn.Module) -> Iterator[list[int]]:
    """A list that fills with the small terms of the neck and the heads while the model runs."""
    terms: list[int] = []

    def add(layer: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        terms.append(inputs[0].numel() if isinstance(layer, nn.AdaptiveAvgPool2d) else output.numel())

    parts = [part for name, part in model.named_children() if name not in ('backbone', 'auxiliary_head')]
    layers = [layer for part in parts for layer in part.modules() if _is_small_term(layer)]
    hooks = [layer.register_forward_hook(add) for layer in layers]
    try:
        yield terms
    finally:
        for hook in hooks:
            hook.remove()


def _is_small_term(layer: nn.Module) -> bool:
    biased = isinstance(layer, nn.Conv2d | nn.ConvTranspose2d) and layer.bias is not None
    return biased or isinstance(layer, nn.ReLU | nn.AdaptiveAvgPool2d)


def _is_linear(layer: nn.Module) -> bool:
    return isinstance(layer, nn.Linear)


def _offsets(rows: int, columns: int) -> int:
    return (2 * rows - 1) * (2 * columns - 1)


def _round_up(length: int, step: int) -> int:
    return -(-length // step) * step
