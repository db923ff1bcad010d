"""An image as the network sees it: after the test pipeline, and where its pixels are in the image."""

from typing import NamedTuple

import cv2
import numpy as np
import torch.nn.functional as F
from mmengine.infer import BaseInferencer
from mmengine.structures import BaseDataElement
from torch import Tensor

from ..deploy.prepare import widen
from .inferencer import is_classifier, is_segmentor


class NetworkInput(NamedTuple):
    """The input of a network.

    Attributes:
        picture: RGB, ``(h, w, 3)``, uint8: the resized and cropped image, without padding.
        inputs: ``(1, 3, H, W)``, normalised and padded.
        sample: The toolbox's data sample.
        scale: Pixels of the input per pixel of the image, across and down.
        offset: What is cropped at the left and at the top, in pixels of the input.
    """

    picture: np.ndarray
    inputs: Tensor
    sample: BaseDataElement
    scale: np.ndarray
    offset: np.ndarray

    def from_image(self, points: np.ndarray) -> np.ndarray:
        """Points ``(..., xy)`` of the image, in pixels of the input."""
        return points * self.scale - self.offset

    def to_image(self, points: np.ndarray) -> np.ndarray:
        """Points ``(..., xy)`` of the input, in pixels of the image."""
        return (points + self.offset) / self.scale

    def over_picture(self, values: Tensor) -> np.ndarray:
        """A map ``(h, w)`` of the network in pixels of the picture, without what lies over padding."""
        size = self.inputs.shape[2:]
        whole = F.interpolate(values[None, None], size, mode='bilinear', align_corners=False)
        height, width = self.picture.shape[:2]
        return whole[0, 0, :height, :width].float().cpu().numpy()


def prepare_input(inferencer: BaseInferencer, image: np.ndarray) -> NetworkInput:
    """Prepare an image as :func:`.inferencer.predict` does.

    Args:
        inferencer: From :func:`.inferencer.open_inferencer`.
        image: BGR, ``(H, W, 3)``.
    """
    wide = widen(image)
    item = inferencer.pipeline(wide)
    picture = cv2.cvtColor(item['inputs'].permute(1, 2, 0).numpy(), cv2.COLOR_BGR2RGB)
    data = inferencer.model.data_preprocessor(inferencer.collate_fn([item]), False)
    sample = data['data_samples'][0]
    sides, seen = np.array(wide.shape[1::-1]), np.array(picture.shape[1::-1])
    scale, offset = seen / sides, np.zeros(2)
    if not is_segmentor(inferencer):  # whose results are resized to the image, whatever the steps before
        scale = np.array(sample.get('scale_factor', (1, 1)))
    if is_classifier(inferencer):  # which sees the centre
        offset = (sides * scale - seen) / 2
    return NetworkInput(picture, data['inputs'], sample, scale, offset)
