"""Turn the toolboxes' data samples into predictions as arrays."""

from collections.abc import Sequence

import numpy as np
from mmengine.structures import BaseDataElement
from torch import Tensor

from ..deploy.predictions import Objects


class _Masks(Sequence):
    """The masks of a data sample, of which one at a time is copied from the device."""

    def __init__(self, masks: Tensor, order: Sequence[int]) -> None:
        self.masks, self.order = masks, order

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, index: int) -> np.ndarray:
        return self.masks[self.order[index]].cpu().numpy()


def predicted_objects(sample: BaseDataElement) -> Objects:
    """The objects that a detector found in an image, from MMDetection's data sample."""
    found = sample.pred_instances
    order = found.scores.argsort(descending=True)
    return Objects(
        boxes=found.bboxes[order].float().cpu().numpy(),
        scores=found.scores[order].float().cpu().numpy(),
        labels=found.labels[order].cpu().numpy(),
        masks=_Masks(found.masks, order.tolist()) if 'masks' in found else None,
    )


def label_array(labels: Tensor) -> np.ndarray:
    """The labels of an MMSegmentation data sample as an array.

    Args:
        labels: ``(1, H, W)``, or ``(H, W)`` from test-time augmentation.

    Returns:
        ``(H, W)``.
    """
    return labels.reshape(labels.shape[-2:]).long().cpu().numpy()


def score_array(scores: Tensor) -> np.ndarray:
    """The scores of an MMPretrain data sample, ``(classes,)``, as an array."""
    return scores.float().cpu().numpy()
