"""The first part of an exported model: from the pixels of an image to the input of the network."""

import torch
from mmengine.model import BaseDataPreprocessor
from torch import Tensor, nn


class ImageInput(nn.Module):
    """Normalises images as a toolbox's data preprocessor does, and pads them after that, as it does.

    Args:
        preprocessor: MMDetection's, MMSegmentation's or MMPretrain's.
    """

    def __init__(self, preprocessor: BaseDataPreprocessor) -> None:
        super().__init__()
        # the toolboxes read images as BGR
        self.takes_rgb = any(getattr(preprocessor, name, False) for name in ('to_rgb', '_channel_conversion'))
        self.normalises = preprocessor._enable_normalize
        if self.normalises:
            self.register_buffer('mean', preprocessor.mean.detach().clone())
            self.register_buffer('std', preprocessor.std.detach().clone())
        self.padding = float(getattr(preprocessor, 'pad_value', getattr(preprocessor, 'pad_val', 0)))

    def forward(self, image: Tensor, size: Tensor | None = None) -> Tensor:
        """Prepare a batch.

        Args:
            image: RGB, uint8, ``(N, H, W, 3)``.
            size: Height and width of each image without the padding at the bottom and at the right, int64,
                ``(N, 2)``; None if no image is padded.

        Returns:
            ``(N, 3, H, W)``, float32, in the order of channels of the network.
        """
        x = image.permute(0, 3, 1, 2).float()
        if not self.takes_rgb:
            x = x.flip(1)
        if self.normalises:
            x = (x - self.mean) / self.std
        return x if size is None else x.where(inside(size, *image.shape[1:3])[:, None], self.padding)


def inside(size: Tensor, H: int, W: int) -> Tensor:
    """Which pixels of padded images of H × W belong to the image.

    Args:
        size: Height and width of each image without padding, int64, ``(N, 2)``.
        H: Rows, with padding.
        W: Columns, with padding.

    Returns:
        ``(N, H, W)``, bool.
    """
    rows = torch.arange(H, device=size.device) < size[:, :1]  # (N, H)
    columns = torch.arange(W, device=size.device) < size[:, 1:]  # (N, W)
    return rows[:, :, None] & columns[:, None]
