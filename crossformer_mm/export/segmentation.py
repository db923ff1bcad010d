"""A segmentor as one graph, from the pixels to the label of each pixel."""

import copy

import torch
import torch.nn.functional as F
from mmseg.models import EncoderDecoder
from torch import Tensor, nn

from ..compat import sizes, unseen
from ..utils.errors import UserError
from .image_input import ImageInput

_MOST_IN_UINT8 = 256  # classes


class SegmentorGraph(nn.Module):
    """A segmentor that predicts on whole images, as MMSegmentation's ``whole_inference`` does.

    Args:
        model: MMSegmentation's ``EncoderDecoder`` with a single decode head.

    Raises:
        UserError: It predicts on windows of an image.
    """

    task = 'semantic segmentation'
    outputs = ('labels',)

    def __init__(self, model: EncoderDecoder) -> None:
        super().__init__()
        if (mode := model.test_cfg.get('mode', 'whole')) != 'whole':
            raise UserError(
                f"model.test_cfg.mode is '{mode}': only whole images can be exported;"
                ' give --cfg-options model.test_cfg.mode=whole and a --size of the windows'
            )
        self.input = ImageInput(model.data_preprocessor)
        self.model = model
        self.decode_head = copy.deepcopy(model.decode_head)
        _replace_pooling(self.decode_head)

    def forward(self, image: Tensor, size: Tensor) -> tuple[Tensor]:
        """Segment images.

        Args:
            image: RGB, uint8, ``(N, H, W, 3)``.
            size: Height and width of each image without padding, int64, ``(N, 2)``.

        Returns:
            The label of each pixel, ``(N, H, W)``, uint8, or int32 for more than 256 classes.
        """
        head = self.decode_head
        logits = head(self.model.extract_feat(self.input(image, size)))
        logits = F.interpolate(logits, image.shape[1:3], mode='bilinear', align_corners=head.align_corners)
        is_binary = head.out_channels == 1  # one class, and what is not of it
        labels = logits[:, 0].sigmoid() > head.threshold if is_binary else logits.argmax(1)
        return (labels.to(torch.uint8 if head.num_classes <= _MOST_IN_UINT8 else torch.int32),)


class BinPooling(nn.Module):
    """Adaptive average pooling of maps of one size as two matrix products, which ONNX has.

    Args:
        bins: Rows and columns of the result.
    """

    def __init__(self, bins: tuple[int, int]) -> None:
        super().__init__()
        self.bins = bins

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) → (N, C, rows, columns)."""
        with unseen():  # the sizes of a graph are fixed, so these are constants
            rows, columns = (
                F.adaptive_avg_pool1d(torch.eye(side, device=x.device), count)
                for side, count in zip(sizes(x)[2:], self.bins, strict=True)
            )
        return rows.T.to(x.dtype) @ x @ columns.to(x.dtype)


def _replace_pooling(module: nn.Module) -> None:
    """Replace adaptive pooling in a module, whose bins may differ in size, which ONNX's pooling cannot."""
    for name, part in module.named_children():
        if isinstance(part, nn.AdaptiveAvgPool2d):
            side = part.output_size
            setattr(module, name, BinPooling((side, side) if isinstance(side, int) else tuple(side)))
        else:
            _replace_pooling(part)
