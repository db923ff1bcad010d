"""The heads that predict boxes at every point of the feature maps: RetinaNet's, and the region proposals'."""

from collections.abc import Sequence

import torch
from mmdet.models import RetinaHead, RPNHead
from torch import Tensor, nn

from ..compat import sizes, unseen
from ..utils.errors import UserError
from .boxes import best, decoded, require, require_decodable, require_plain_nms


class DenseHead(nn.Module):
    """A head of MMDetection and the choice of its best boxes.

    Args:
        head: RetinaNet's, or that of a region proposal network.
        name: What it is called in a config.

    Raises:
        UserError: A setting of the head cannot be exported.
    """

    def __init__(self, head: nn.Module, name: str) -> None:
        super().__init__()
        require(head, name, RetinaHead, RPNHead)
        require_decodable(head, name)
        require_plain_nms(head.test_cfg, f'{name}.test_cfg')
        if not head.use_sigmoid_cls or getattr(head.loss_cls, 'custom_cls_channels', False):
            raise UserError(f'{name}.loss_cls: cannot be exported; use a loss of sigmoids')
        if head.test_cfg.get('nms_pre', 0) < 1:
            raise UserError(f'{name}.test_cfg.nms_pre: is needed for the export; set it to 1000, for example')
        self.head = head
        self.by_level = isinstance(head, RPNHead)

    def forward(self, features: Sequence[Tensor], size: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Predict boxes.

        Args:
            features: Maps of each level, ``(N, C, h, w)``.
            size: Height and width of each image, ``(N, 2)``.

        Returns:
            boxes: ``(N, k, 4)``, best first; 0 for empty places.
            scores: ``(N, k)``; 0 for empty places.
            groups: Classes, or levels if the head proposes regions; ``(N, k)``; −1 for empty places.
        """
        logits, deltas = self.head(features)
        parts = []
        for level, maps in enumerate(zip(logits, deltas, self._anchors(logits), strict=True)):
            boxes, scores, labels = self._candidates(*maps, size)
            parts.append((boxes, scores, torch.full_like(labels, level) if self.by_level else labels))
        boxes, scores, groups = (torch.cat(kind, 1) for kind in zip(*parts, strict=True))
        return best(boxes, scores, groups, self.head.test_cfg)

    def _anchors(self, maps: list[Tensor]) -> list[Tensor]:
        with unseen():
            return self.head.prior_generator.grid_priors([sizes(x)[2:] for x in maps], device=maps[0].device)

    def _candidates(
        self, logits: Tensor, deltas: Tensor, anchors: Tensor, size: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        cfg, classes = self.head.test_cfg, self.head.cls_out_channels
        scores = logits.permute(0, 2, 3, 1).flatten(1).sigmoid()  # (N, anchors × classes)
        scores, places = scores.topk(min(cfg.nms_pre, len(anchors) * classes))
        chosen = places // classes
        deltas = deltas.permute(0, 2, 3, 1).reshape(-1, len(anchors), 4)
        deltas = deltas.gather(1, chosen[..., None].expand(-1, -1, 4))
        boxes = decoded(self.head.bbox_coder, anchors[chosen], deltas, size)
        valid = scores > cfg.get('score_thr', 0)
        if cfg.get('min_bbox_size', -1) >= 0:
            valid = valid & (boxes[..., 2:] - boxes[..., :2] > cfg.min_bbox_size).all(-1)
        return boxes, scores.where(valid, 0), places % classes
