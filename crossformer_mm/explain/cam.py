"""Class activation maps: which places of a map of the network a score rests on.

Papers: Grad-CAM (Selvaraju et al., ICCV 2017), Score-CAM (Wang et al., CVPR workshops 2020).
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..models.crossformer import CrossFormer


@contextmanager
def watched_map(backbone: nn.Module, stage: int) -> Iterator[list[Tensor]]:
    """Collect the map of a stage in each forward inside the block.

    Of a CrossFormer, it is the stage's result, on which later stages depend too. Of another backbone, it is
    the output with this index.

    Args:
        backbone: The backbone.
        stage: The index of the stage, from 0.

    Yields:
        A list, to which each forward adds a map, ``(B, C, H, W)``, that has a gradient if gradients are on.
    """
    maps: list[Tensor] = []

    def keep(x: Tensor) -> Tensor:
        if torch.is_grad_enabled() and not x.requires_grad:  # everything before it is frozen
            x.requires_grad_()
        maps.append(x)
        return x

    def keep_result(module: nn.Module, inputs: tuple, output: Tensor) -> Tensor:
        return keep(output.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)

    def keep_output(module: nn.Module, inputs: tuple, outputs: tuple[Tensor, ...]) -> None:
        keep(outputs[stage])

    if isinstance(backbone, CrossFormer):
        handle = backbone.layers[stage].register_forward_hook(keep_result)
    else:
        handle = backbone.register_forward_hook(keep_output)
    try:
        yield maps
    finally:
        handle.remove()


def grad_cam(maps: Tensor, gradient: Tensor) -> Tensor:
    """Weight each channel by its mean gradient (Grad-CAM, equations 1 and 2).

    Args:
        maps: ``(C, h, w)``.
        gradient: Of the score, ``(C, h, w)``.

    Returns:
        ``(h, w)``, at least 0.
    """
    return (gradient.mean((1, 2), keepdim=True) * maps).sum(0).relu()


def local_cam(maps: Tensor, gradient: Tensor) -> Tensor:
    """Weight each channel at each place by its gradient there, relative to the channel's mean.

    It is what the score would lose, to the first order, if the place were like the average one. Grad-CAM
    weights a channel alike everywhere, and so shows all that looks like what the score rests on; this shows
    only places on which it depends, such as one object of several. It is HiResCAM (Draelos and Carin 2020) of
    maps without their mean: those of a transformer are not around 0.

    Args:
        maps: ``(C, h, w)``.
        gradient: Of the score, ``(C, h, w)``.

    Returns:
        ``(h, w)``, at least 0.
    """
    return (gradient * (maps - maps.mean((1, 2), keepdim=True))).sum(0).relu()


def score_cam(
    maps: Tensor, image: Tensor, score: Callable[[Tensor], Tensor], channels: int = 64, batch: int = 8
) -> Tensor:
    """Weight each channel by the score of the image that it masks (Score-CAM, algorithm 1).

    The maps are without their means, which changes no mask: those of a transformer are not around 0, and
    their sum could be negative everywhere.

    Args:
        maps: ``(C, h, w)``.
        image: ``(3, H, W)``, as the network gets it, with 0 for the mean colour.
        score: Computes the scores of a batch of images, ``(N,)``.
        channels: How many channels to use, those that vary most; the weights of the others are 0.
        batch: Images per batch.

    Returns:
        ``(h, w)``, at least 0; 0 everywhere if every score is minus infinity.
    """
    maps = maps[maps.flatten(1).std(1, correction=0).topk(min(channels, len(maps))).indices]
    scores = [score(image * channel_masks(part, image.shape[1:])) for part in maps.split(batch)]
    weights = torch.cat(scores).softmax(0).nan_to_num(0)
    return (weights[:, None, None] * (maps - maps.mean((1, 2), keepdim=True))).sum(0).relu()


def channel_masks(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Turn channels ``(N, h, w)`` into masks from 0 to 1 of an image's height and width, ``(N, 1, H, W)``."""
    masks = F.interpolate(maps[:, None], size, mode='bilinear', align_corners=False)
    low, high = masks.amin((2, 3), keepdim=True), masks.amax((2, 3), keepdim=True)
    return (masks - low) / (high - low).clamp(min=torch.finfo(masks.dtype).tiny)
