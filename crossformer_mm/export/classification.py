"""A classifier as one graph, from the pixels to the probabilities of the classes."""

from mmengine.model import BaseModel
from torch import Tensor, nn

from .image_input import ImageInput


class ClassifierGraph(nn.Module):
    """A classifier with one softmax over its classes.

    Args:
        model: MMPretrain's ``ImageClassifier``, with a ``ClsHead`` such as ``CrossFormerClsHead``.
    """

    task = 'classification'
    outputs = ('scores',)

    def __init__(self, model: BaseModel) -> None:
        super().__init__()
        self.input = ImageInput(model.data_preprocessor)
        self.model = model

    def forward(self, image: Tensor) -> tuple[Tensor]:
        """Classify images.

        Args:
            image: RGB, uint8, ``(N, H, W, 3)``.

        Returns:
            The probability of each class, float32, ``(N, classes)``.
        """
        logits = self.model.head(self.model.extract_feat(self.input(image)))
        return (logits.softmax(1),)
