"""Detectors that classify and refine proposed regions: Faster, Mask and Cascade R-CNN."""

from collections.abc import Sequence

import torch
from mmcv.ops import RoIAlign
from mmdet.models import (
    CascadeRoIHead,
    ConvFCBBoxHead,
    FCNMaskHead,
    Shared2FCBBoxHead,
    Shared4Conv1FCBBoxHead,
    SingleRoIExtractor,
    StandardRoIHead,
    TwoStageDetector,
)
from mmdet.models.task_modules.coders import DeltaXYWHBBoxCoder
from torch import Tensor, nn

from ..compat import sizes
from ..utils.errors import UserError
from .boxes import best, decoded, require, require_decodable, require_plain_nms
from .dense_heads import DenseHead
from .image_input import ImageInput
from .operators import roi_align


class TwoStageGraph(nn.Module):
    """The whole of a two-stage detector, from the image to boxes, and to masks if it predicts them.

    Args:
        model: A detector of MMDetection with a region proposal network.

    Raises:
        UserError: A part of the detector cannot be exported.
    """

    def __init__(self, model: TwoStageDetector) -> None:
        super().__init__()
        roi_head = model.roi_head
        require(roi_head, 'roi_head', StandardRoIHead, CascadeRoIHead)
        if roi_head.with_shared_head:
            raise UserError('roi_head.shared_head: cannot be exported; use a roi_head without it')
        self.model = model
        self.image_input = ImageInput(model.data_preprocessor)
        self.proposals = DenseHead(model.rpn_head, 'rpn_head')
        self.box_head = BoxHead(roi_head)
        self.mask_head = MaskHead(roi_head) if roi_head.with_mask else None
        self.task = 'instance segmentation' if roi_head.with_mask else 'detection'
        self.outputs = ('boxes', 'scores', 'labels', *(('masks',) if roi_head.with_mask else ()))

    def forward(self, image: Tensor, size: Tensor) -> tuple[Tensor, ...]:
        """Detect objects.

        Args:
            image: RGB, uint8, ``(N, H, W, 3)``.
            size: Height and width of each image without padding, int64, ``(N, 2)``.

        Returns:
            boxes: Left, top, right, bottom in pixels, ``(N, K, 4)``, best first; 0 for empty places.
            scores: ``(N, K)``; 0 for empty places.
            labels: int64, ``(N, K)``; −1 for empty places.
            masks: Probabilities within each box, ``(N, K, h, w)``; only if the detector predicts masks.
        """
        features = self.model.extract_feat(self.image_input(image, size))
        proposals, scores, _ = self.proposals(features, size)
        boxes, scores, labels = self.box_head(features, proposals, scores, size)
        if self.mask_head is None:
            return boxes, scores, labels
        return boxes, scores, labels, self.mask_head(features, boxes, labels)


class BoxHead(nn.Module):
    """The box heads of MMDetection, one after another, and the choice of the best boxes.

    Args:
        roi_head: Has one box head, or a cascade of them.

    Raises:
        UserError: A part cannot be exported.
    """

    def __init__(self, roi_head: StandardRoIHead | CascadeRoIHead) -> None:
        super().__init__()
        self.extractors = _as_list(roi_head.bbox_roi_extractor)
        self.heads = _as_list(roi_head.bbox_head)
        self.cfg = roi_head.test_cfg
        require_plain_nms(self.cfg, 'roi_head.test_cfg')
        for extractor, head in zip(self.extractors, self.heads, strict=True):
            _require_aligned(extractor, 'roi_head.bbox_roi_extractor')
            name = 'roi_head.bbox_head'
            require(head, name, ConvFCBBoxHead, Shared2FCBBoxHead, Shared4Conv1FCBBoxHead)
            require_decodable(head, name)
            if head.custom_cls_channels or head.custom_activation:
                raise UserError(f'{name}.loss_cls: cannot be exported; use a loss of softmax')
            if not (head.with_cls and head.with_reg):
                raise UserError(f'{name}: cannot be exported; with_cls and with_reg must be True')

    def forward(
        self, features: Sequence[Tensor], boxes: Tensor, scores: Tensor, size: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Classify and refine boxes.

        Args:
            features: Maps of each level, ``(N, C, h, w)``.
            boxes: Proposals, ``(N, n, 4)``.
            scores: Theirs, ``(N, n)``; 0 for empty places.
            size: Height and width of each image, ``(N, 2)``.

        Returns:
            Boxes ``(N, K, 4)``, scores ``(N, K)`` and labels ``(N, K)``, with 0, 0 and −1 in empty places.
        """
        proposed = scores[..., None] > 0
        logits = []
        for extractor, head in zip(self.extractors, self.heads, strict=True):
            of_stage, deltas = head(_roi_features(extractor, features, boxes))
            logits.append(of_stage.reshape(-1, sizes(boxes)[1], sizes(of_stage)[1]))
            moved = _moved_by_class(head.bbox_coder, boxes, deltas, size)
            boxes = _of_class(moved, logits[-1][..., :-1].argmax(-1))  # for the next head
        scores = (sum(logits) / len(logits)).softmax(-1)[..., :-1]
        scores = scores.where(proposed & (scores > self.cfg.score_thr), 0)
        labels = torch.arange(sizes(scores)[2], device=scores.device).expand_as(scores)
        boxes = moved.expand(-1, -1, sizes(scores)[2], -1)
        return best(boxes.flatten(1, 2), scores.flatten(1), labels.flatten(1), self.cfg)


class MaskHead(nn.Module):
    """The mask heads of MMDetection.

    Args:
        roi_head: Has one mask head, or one for each box head.

    Raises:
        UserError: A part cannot be exported.
    """

    def __init__(self, roi_head: StandardRoIHead | CascadeRoIHead) -> None:
        super().__init__()
        self.extractors = _as_list(roi_head.mask_roi_extractor)
        self.heads = _as_list(roi_head.mask_head)
        for extractor, head in zip(self.extractors, self.heads, strict=True):
            _require_aligned(extractor, 'roi_head.mask_roi_extractor')
            require(head, 'roi_head.mask_head', FCNMaskHead)

    def forward(self, features: Sequence[Tensor], boxes: Tensor, labels: Tensor) -> Tensor:
        """Predict the masks of detected objects, the average of all heads.

        Args:
            features: Maps of each level, ``(N, C, h, w)``.
            boxes: Left, top, right, bottom in pixels, ``(N, K, 4)``.
            labels: ``(N, K)``; −1 for empty places.

        Returns:
            Probabilities within each box, ``(N, K, h, w)``.
        """
        masks = []
        for extractor, head in zip(self.extractors, self.heads, strict=True):
            logits = head(_roi_features(extractor, features, boxes))
            _, classes, h, w = sizes(logits)
            logits = logits.reshape(-1, sizes(labels)[1], classes, h * w)
            masks.append(_of_class(logits, labels.clamp(min=0)).sigmoid())
        return torch.stack(masks).mean(0).reshape(-1, sizes(labels)[1], h, w)


def _as_list(part: nn.Module) -> list[nn.Module]:
    return list(part) if isinstance(part, nn.ModuleList) else [part]


def _require_aligned(extractor: nn.Module, name: str) -> None:
    require(extractor, name, SingleRoIExtractor)
    for layer in extractor.roi_layers:
        require(layer, f'{name}.roi_layer', RoIAlign)
        if not layer.aligned or layer.pool_mode != 'avg':
            raise UserError(f'{name}.roi_layer: {layer} cannot be exported; use aligned=True, pool_mode=avg')


def _roi_features(extractor: SingleRoIExtractor, features: Sequence[Tensor], boxes: Tensor) -> Tensor:
    """The features within boxes ``(N, n, 4)``, each from the level for its size; ``(N × n, C, h, w)``."""
    images = torch.arange(boxes.shape[0], device=boxes.device)[:, None].expand(boxes.shape[:2]).flatten()
    boxes = boxes.flatten(0, 1)
    levels = extractor.map_roi_levels(torch.cat((images[:, None], boxes), 1), extractor.num_inputs)
    order, parts = [], []
    for level, (layer, maps) in enumerate(zip(extractor.roi_layers, features, strict=False)):
        own = (levels == level).nonzero()[:, 0]
        options = layer.output_size, layer.spatial_scale, layer.sampling_ratio
        order.append(own)
        parts.append(roi_align(maps, boxes[own], images[own], *options))
    return torch.cat(parts)[torch.cat(order).argsort()]


def _moved_by_class(coder: DeltaXYWHBBoxCoder, boxes: Tensor, deltas: Tensor, size: Tensor) -> Tensor:
    """Boxes ``(N, n, 4)`` moved by ``(N × n, classes × 4)`` and clipped to their images."""
    n, classes = sizes(boxes)[1], sizes(deltas)[1] // 4
    boxes = boxes[:, :, None].expand(-1, -1, classes, -1).reshape(-1, n * classes, 4)
    return decoded(coder, boxes, deltas.reshape(-1, n * classes, 4), size).reshape(-1, n, classes, 4)


def _of_class(values: Tensor, labels: Tensor) -> Tensor:
    """Choose from ``(N, n, classes, k)`` by labels ``(N, n)``; there can be one class for all."""
    if sizes(values)[2] == 1:
        return values[:, :, 0]
    places = labels[..., None, None].expand(-1, -1, 1, sizes(values)[3])
    return values.gather(2, places)[:, :, 0]
