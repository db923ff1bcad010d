"""What is explained: the score of a detected object, of a class of pixels, or of the class of an image."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
from mmengine.model import BaseModel
from mmengine.structures import BaseDataElement
from torch import Tensor

from ..compat import undetached
from ..utils.errors import UserError

Samples = Sequence[BaseDataElement]


class NoTarget(UserError):
    """An image has nothing of what is to be explained; the message is the reason, without its name."""


class Target(NamedTuple):
    """What is explained in an image.

    Attributes:
        score: A number that depends on the network's maps, with a gradient.
        again: Computes it for a batch of changed images, ``(N,)``, without a gradient.
        label: The number of its class.
        shown: The score for readers: a probability, or the mean logit of a segmentor.
        box: Of an object: left, top, right and bottom in pixels of the network's input.
        region: Of a segmentor's class: its pixels in the network's input, ``(H, W)``.
    """

    score: Tensor
    again: Callable[[Tensor], Tensor]
    label: int
    shown: float
    box: Tensor | None = None
    region: Tensor | None = None


def object_target(
    model: BaseModel,
    image: Tensor,
    sample: BaseDataElement,
    number: int = 1,
    label: int | None = None,
    score_thr: float = 0.3,
) -> Target:
    """Explain an object that a detector finds: the logarithm of its score.

    It is the score that the detector gives the object, and its gradient goes back through the anchors,
    proposals or queries behind it. In a changed image, the same object is the one of its class that has the
    largest product of score and IoU with its box (D-RISE, Petsiuk et al., CVPR 2021).

    Args:
        model: A detector of MMDetection.
        image: Its input, ``(1, 3, H, W)``.
        sample: The data sample of the image.
        number: Which object, from 1, the best, counted as in the results of ``crossformer infer``.
        label: Count only objects of this class.
        score_thr: Count only objects with at least this score.

    Raises:
        NoTarget: There is no such object.
        UserError: The model predicts no boxes.
    """
    (found,) = _detect(model, image, [sample])
    order = found.scores.detach().argsort(descending=True)
    good = [i for i in order.tolist() if label is None or found.labels[i] == label]
    kept = [i for i in good if found.scores[i] >= score_thr]
    if not kept:
        raise NoTarget(_none_is_good(found.scores[good], score_thr))
    if number > len(kept):
        raise NoTarget(
            f'there are {len(kept)} objects with a score of {score_thr:g} or more, no object {number}'
        )
    chosen = kept[number - 1]
    box, label = found.bboxes[chosen].detach(), int(found.labels[chosen])

    def again(images: Tensor) -> Tensor:
        samples = [type(sample)(metainfo=sample.metainfo) for _ in images]
        return torch.stack(
            [_best_match(found, box, label) for found in _detect(model, images, samples)]
        ).log()

    score = found.scores[chosen]
    if torch.is_grad_enabled() and not score.requires_grad:
        raise UserError(
            f'{type(model).__name__}: its scores have no gradient; its objects cannot be explained'
        )
    return Target(score.log(), again, label, score.item(), box=box)


def _none_is_good(scores: Tensor, score_thr: float) -> str:
    best = f'the best has {scores.max():.3g}; lower --score-thr' if len(scores) else 'there is none at all'
    return f'no object has a score of {score_thr:g} or more: {best}'


def _detect(model: BaseModel, images: Tensor, samples: Samples) -> list[BaseDataElement]:
    """The objects in images, with boxes in pixels of the input and without masks where they come last."""
    with _without_masks(model), undetached(getattr(model, 'bbox_head', None)):
        predicted = model.predict(images, samples, rescale=False)
    if 'pred_instances' not in predicted[0]:
        raise UserError(f'{type(model).__name__} predicts no boxes, which alone are explained')
    return [one.pred_instances for one in predicted]


@contextmanager
def _without_masks(model: BaseModel) -> Iterator[None]:
    """Leave out the masks of a two-stage detector, which change no score and take time and memory."""
    roi_head = getattr(model, 'roi_head', None)
    head = getattr(roi_head, 'mask_head', None)
    if head is None:
        yield
        return
    roi_head.mask_head = None
    try:
        yield
    finally:
        roi_head.mask_head = head


def _best_match(found: BaseDataElement, box: Tensor, label: int) -> Tensor:
    """The largest product of score and IoU among the objects of a class; 0 if there is none."""
    boxes = found.bboxes
    overlap = (boxes[:, 2:].minimum(box[2:]) - boxes[:, :2].maximum(box[:2])).clamp(min=0).prod(1)
    union = (boxes[:, 2:] - boxes[:, :2]).prod(1) + (box[2:] - box[:2]).prod() - overlap
    matches = overlap / union.clamp(min=1e-6) * found.scores * (found.labels == label)
    return torch.cat((matches, matches.new_zeros(1))).max()


def region_target(
    model: BaseModel, image: Tensor, sample: BaseDataElement, label: int | None = None
) -> Target:
    """Explain a class of a segmentor: the mean of its logits over the pixels that are predicted as it.

    Args:
        model: An encoder and decoder of MMSegmentation, which sees the whole image at once.
        image: Its input, ``(1, 3, H, W)``.
        sample: The data sample of the image.
        label: The class; by default, the one with the most pixels.

    Raises:
        NoTarget: No pixel is predicted as this class.
        UserError: The model has a single output for two classes.
    """
    height, width = sample.img_shape[:2]

    def logits_of(images: Tensor) -> Tensor:
        logits = model.encode_decode(images, [sample.metainfo] * len(images))
        return logits[..., :height, :width]

    (logits,) = logits_of(image)
    if len(logits) == 1:
        raise UserError(f'{type(model).__name__} with a single output: only one output a class is explained')
    labels = logits.argmax(0)
    label = int(labels.flatten().bincount().argmax()) if label is None else label
    region = labels == label
    if not region.any():
        raise NoTarget('no pixel is predicted as this class')
    score = logits[label][region].mean()
    return Target(
        score, lambda images: logits_of(images)[:, label, region].mean(1), label, score.item(), region=region
    )


def class_target(
    model: BaseModel, image: Tensor, sample: BaseDataElement, label: int | None = None
) -> Target:
    """Explain a class of a classifier: its logit.

    Args:
        model: A classifier of MMPretrain.
        image: Its input, ``(1, 3, H, W)``.
        sample: The data sample of the image, of no use here.
        label: The class; by default, the predicted one.
    """
    (logits,) = model(image)
    label = int(logits.argmax()) if label is None else label
    shown = logits.softmax(0)[label].item()
    return Target(logits[label], lambda images: model(images)[:, label], label, shown)
