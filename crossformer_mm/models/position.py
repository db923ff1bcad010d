"""How attention learns where tokens are: the paper's choices (CrossFormer, section 3.3 and table 5).

A relative one is a module per block that computes a bias for each offset of two tokens; the absolute one is
added to the tokens once. Notation: as in :mod:`.crossformer`.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..compat import autocast_is_on, sizes
from ..utils.errors import UserError
from .attention import offsets_within
from .grouping import Grouping, GroupRule

POSITIONS = ('dpb', 'dpb_residual', 'rpb', 'ape')
SIDE = 56  # tokens on a side of stage 1's map of an image of 224×224, for which learned tables are made
DEVIATION = 0.02  # of initial values


class DynamicPositionBias(nn.Module):
    """An MLP from the offset between two tokens to one bias per head (DPB, CrossFormer, section 3.3)."""

    def __init__(self, dims: int, num_heads: int) -> None:
        super().__init__()
        width = dims // 16  # in the released weights; the paper says dims / 4
        self.pos_proj = nn.Linear(2, width)
        self.pos1 = self._layer(width, width)
        self.pos2 = self._layer(width, width)
        self.pos3 = self._layer(width, num_heads)

    @staticmethod
    def _layer(inputs: int, outputs: int) -> nn.Sequential:
        return nn.Sequential(nn.LayerNorm(inputs), nn.ReLU(), nn.Linear(inputs, outputs))

    def forward(self, rows: int, columns: int) -> Tensor:
        """The biases of all offsets in a group of ``rows`` × ``columns`` tokens.

        Returns:
            (h, 2·rows − 1, 2·columns − 1); entry [:, rows − 1 − a, columns − 1 − b] belongs to the offset
            (a, b) in group coordinates. Computed without autocast: it is cheap and affects every logit.
        """
        device = self.pos1[0].weight.device
        if not autocast_is_on(device):
            return self._forward(rows, columns)
        with torch.autocast(device.type, enabled=False):
            return self._forward(rows, columns)

    def _forward(self, rows: int, columns: int) -> Tensor:
        norm = self.pos1[0].weight
        a = torch.arange(rows - 1, -rows, -1, device=norm.device, dtype=norm.dtype)
        b = torch.arange(columns - 1, -columns, -1, device=norm.device, dtype=norm.dtype)
        offsets = torch.stack(torch.meshgrid(a, b, indexing='ij'), dim=-1)
        return self._biases(self.pos_proj(offsets)).permute(2, 0, 1).contiguous()

    def _biases(self, x: Tensor) -> Tensor:
        return self.pos3(self.pos2(self.pos1(x)))


class ResidualPositionBias(DynamicPositionBias):
    """DPB with residual connections around its two hidden layers; its tensors are the same."""

    def _biases(self, x: Tensor) -> Tensor:
        x = x + self.pos1(x)
        return self.pos3(x + self.pos2(x))


class UncoveredGroups(UserError, ValueError):
    """A map has groups that a learned table does not cover."""


class RelativePositionBias(nn.Module):
    """A learned bias for each offset and head (RPB, as Swin's).

    Args:
        num_heads: h.
        size: The rows and columns of the largest group that the table covers.
    """

    def __init__(self, num_heads: int, size: int) -> None:
        super().__init__()
        self.size = size
        self.relative_position_bias_table = nn.Parameter(torch.empty(num_heads, 2 * size - 1, 2 * size - 1))
        nn.init.trunc_normal_(self.relative_position_bias_table, std=DEVIATION)

    def check_covers(self, H: int, W: int, grouping: Grouping) -> None:
        """Check that the table is large enough for the groups of a map of H × W tokens.

        Raises:
            UncoveredGroups: It is not.
        """
        rows, columns = grouping.rows, grouping.columns
        if rows > self.size or columns > self.size:
            raise UncoveredGroups(
                f"position='rpb': a map of {H}×{W} tokens has groups of {rows}×{columns}, but the table"
                f" covers at most {self.size}×{self.size}: use smaller images, position='dpb' (any group), or"
                " long_distance='window' if it is 'map' now"
            )

    def forward(self, rows: int, columns: int) -> Tensor:
        """The middle of the table, for groups that it covers; as :meth:`DynamicPositionBias.forward`."""
        # A copy: without gradients, PyTorch's counter of FLOPs refuses a view of a parameter.
        return offsets_within(self.relative_position_bias_table, rows, columns).clone()


class AbsolutePositionEmbedding(nn.Module):
    """A learned vector for each token of stage 1 (APE), resized for maps of other sizes.

    Args:
        dims: C.
    """

    def __init__(self, dims: int) -> None:
        super().__init__()
        self.absolute_pos_embed = nn.Parameter(torch.empty(1, dims, SIDE, SIDE))
        nn.init.trunc_normal_(self.absolute_pos_embed, std=DEVIATION)

    def forward(self, x: Tensor) -> Tensor:
        """Add it to x, (B, H, W, C)."""
        embedding, size = self.absolute_pos_embed, sizes(x)[1:3]
        if size != [SIDE, SIDE]:
            embedding = F.interpolate(embedding, size, mode='bicubic')
        return x + embedding.permute(0, 2, 3, 1)


def position_bias(position: str, dims: int, num_heads: int, groups: GroupRule, side: int) -> nn.Module | None:
    """The module that computes the biases of a block; none if positions are absolute.

    Args:
        position: One of :data:`POSITIONS`.
        dims: C of the block.
        num_heads: h of the block.
        groups: The groups of the block.
        side: Tokens on a side of its map of an image of 224×224. A learned table covers the groups of this
            map, and all groups of up to G × G tokens.
    """
    if position == 'ape':
        return None
    if position == 'rpb':
        grouping = groups(side, side)
        return RelativePositionBias(num_heads, max(groups.group_size, grouping.rows, grouping.columns))
    return (ResidualPositionBias if position == 'dpb_residual' else DynamicPositionBias)(dims, num_heads)
