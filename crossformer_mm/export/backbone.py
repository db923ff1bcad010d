"""A backbone as one graph, from the pixels to the maps of its stages."""

from mmengine.model import BaseModel
from torch import Tensor, nn

from .image_input import ImageInput


class BackboneGraph(nn.Module):
    """The backbone of a model.

    Args:
        model: Any model with a data preprocessor and a CrossFormer as its backbone.
    """

    task = 'features'

    def __init__(self, model: BaseModel) -> None:
        super().__init__()
        self.input = ImageInput(model.data_preprocessor)
        self.backbone = model.backbone
        self.outputs = tuple(f'stage{i + 1}' for i in model.backbone.out_indices)

    def forward(self, image: Tensor, size: Tensor) -> tuple[Tensor, ...]:
        """Compute the maps.

        Args:
            image: RGB, uint8, ``(N, H, W, 3)``.
            size: Height and width of each image without padding, int64, ``(N, 2)``.

        Returns:
            A map ``(N, C, h, w)`` of each stage in ``outputs``, float32.
        """
        return tuple(self.backbone(self.input(image, size)))
