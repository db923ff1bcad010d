"""The classifier's head (CrossFormer, section 3.4): a norm, the mean over positions, a linear layer."""

from typing import Any

from .. import mmpretrain_parts  # noqa: F401, before other modules of MMPretrain

# isort: split
from mmpretrain.models.heads import ClsHead
from torch import Tensor, nn


class CrossFormerClsHead(ClsHead):
    """The published classification head, for MMPretrain's ``ImageClassifier``.

    Released files call its layers ``norm`` and ``head``; here they are ``head.norm`` and ``head.fc``.

    Args:
        num_classes: Number of classes.
        in_channels: Channels of the backbone's last stage, 8C.
        **kwargs: Arguments of MMPretrain's ``ClsHead``: ``loss``, ``topk``, ``cal_acc``, ``init_cfg``.
    """

    def __init__(self, num_classes: int, in_channels: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.norm = nn.LayerNorm(in_channels)
        self.num_classes = num_classes
        self.fc = nn.Linear(in_channels, num_classes)

    def init_weights(self) -> None:
        """Initialise as the backbone, or from ``init_cfg``."""
        nn.init.trunc_normal_(self.fc.weight, std=0.02)
        nn.init.zeros_(self.fc.bias)
        super().init_weights()

    def pre_logits(self, feats: tuple[Tensor, ...]) -> Tensor:
        """The last map, (B, C, H, W) → (B, C): the mean of its normalised positions."""
        return self.norm(feats[-1].flatten(2).transpose(1, 2)).mean(dim=1)

    def forward(self, feats: tuple[Tensor, ...]) -> Tensor:
        """Maps of the stages → (B, classes), the logits."""
        return self.fc(self.pre_logits(feats))
