"""Detectors, from the image to the boxes of objects: RetinaNet here, others in ``two_stage.py``."""

from mmdet.models import BaseDetector, CascadeRCNN, FasterRCNN, MaskRCNN, RetinaNet
from torch import Tensor, nn

from .boxes import require
from .dense_heads import DenseHead
from .image_input import ImageInput
from .two_stage import TwoStageGraph


class RetinaNetGraph(nn.Module):
    """The whole of a RetinaNet, from the image to boxes.

    Args:
        model: MMDetection's.

    Raises:
        UserError: A part of the detector cannot be exported.
    """

    task = 'detection'
    outputs = ('boxes', 'scores', 'labels')

    def __init__(self, model: RetinaNet) -> None:
        super().__init__()
        self.model = model
        self.image_input = ImageInput(model.data_preprocessor)
        self.head = DenseHead(model.bbox_head, 'bbox_head')

    def forward(self, image: Tensor, size: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Detect objects.

        Args:
            image: RGB, uint8, ``(N, H, W, 3)``.
            size: Height and width of each image without padding, int64, ``(N, 2)``.

        Returns:
            boxes: Left, top, right, bottom in pixels, ``(N, K, 4)``, best first; 0 for empty places.
            scores: ``(N, K)``; 0 for empty places.
            labels: int64, ``(N, K)``; −1 for empty places.
        """
        return self.head(self.model.extract_feat(self.image_input(image, size)), size)


def detector_graph(model: BaseDetector) -> nn.Module:
    """The graph to export for a detector.

    Args:
        model: MMDetection's, on the CPU, in evaluation mode.

    Returns:
        A module from ``image`` and ``size`` to its ``outputs``, with a ``task``.

    Raises:
        UserError: The detector, or a part of it, cannot be exported.
    """
    require(model, 'model', RetinaNet, FasterRCNN, MaskRCNN, CascadeRCNN)
    return RetinaNetGraph(model) if isinstance(model, RetinaNet) else TwoStageGraph(model)
