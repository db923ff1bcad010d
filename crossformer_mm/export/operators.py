"""ONNX's operators for boxes, which PyTorch has no names for. Outside an export they run MMCV's."""

import torch
from mmcv.ops import nms
from mmcv.ops import roi_align as mmcv_roi_align
from torch import Tensor

from ..compat import sizes


class _Survivors(torch.autograd.Function):
    @staticmethod
    def forward(ctx, boxes: Tensor, scores: Tensor, iou: float, most: int) -> tuple[Tensor, Tensor]:
        kept = torch.zeros_like(scores)
        for i in range(len(boxes)):
            candidates = scores[i].nonzero()[:, 0]
            chosen = candidates[nms(boxes[i, candidates], scores[i, candidates], iou, max_num=most)[1]]
            kept[i, chosen] = scores[i, chosen]
        return kept.topk(most)

    @staticmethod
    def symbolic(g, boxes, scores, iou: float, most: int):
        def constant(value: float, dtype: torch.dtype = torch.int64):
            return g.op('Constant', value_t=torch.tensor([value], dtype=dtype))

        by_class = g.op('Unsqueeze', scores, constant(1))
        limits = constant(most), constant(iou, torch.float32), constant(0, torch.float32)
        chosen = g.op('NonMaxSuppression', boxes, by_class, *limits)  # (k, 3): image, class, box
        index = g.op('Gather', chosen, g.op('Constant', value_t=torch.tensor([0, 2])), axis_i=1)
        zeros = g.op('ConstantOfShape', g.op('Shape', scores), value_t=torch.zeros(1))
        kept = g.op('ScatterND', zeros, index, g.op('GatherND', scores, index))
        return g.op('TopK', kept, constant(most), outputs=2)


class _RoiAlign(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx, maps: Tensor, boxes: Tensor, images: Tensor, height: int, width: int, scale: float, samples: int
    ) -> Tensor:
        rois = torch.cat((images[:, None].to(boxes), boxes), 1)
        return mmcv_roi_align(maps, rois, (height, width), scale, samples, 'avg', True)

    @staticmethod
    def symbolic(g, maps, boxes, images, height: int, width: int, scale: float, samples: int):
        return g.op(
            'RoiAlign',
            maps,
            boxes,
            images,
            coordinate_transformation_mode_s='half_pixel',
            mode_s='avg',
            output_height_i=height,
            output_width_i=width,
            sampling_ratio_i=samples,
            spatial_scale_f=scale,
        )


def survivors(boxes: Tensor, scores: Tensor, iou: float, most: int) -> tuple[Tensor, Tensor]:
    """Non-maximum suppression, with a result of fixed shape.

    Args:
        boxes: Left, top, right, bottom; ``(N, n, 4)``.
        scores: ``(N, n)``, at least 0. A box of score 0 is no candidate.
        iou: A box that overlaps a better one more than this is suppressed.
        most: How many boxes of an image may survive; the best ones do.

    Returns:
        scores: Of the boxes that survive, best first, and 0 for the places that are left; ``(N, k)``. k is
            ``most``, or n if that is less.
        places: The boxes that have these scores, any box for a score of 0; int64, ``(N, k)``.
    """
    return _Survivors.apply(boxes, scores, iou, min(most, sizes(scores)[1]))


def roi_align(
    maps: Tensor, boxes: Tensor, images: Tensor, size: tuple[int, int], scale: float, samples: int
) -> Tensor:
    """Sample features within boxes, half a pixel apart from the corners as MMCV's ``aligned`` does.

    Args:
        maps: Features, float32, ``(N, C, H, W)``.
        boxes: Left, top, right, bottom in pixels of the image; float32, ``(n, 4)``.
        images: The image of each box, int64, ``(n,)``.
        size: Height and width of the result.
        scale: Pixels of the map per pixel of the image.
        samples: Samples per row and column of each cell; 0: one for each pixel of the map.

    Returns:
        ``(n, C, *size)``.
    """
    boxes = boxes.reshape(-1, 4)  # tells OpenVINO, which asks for it, that there are four numbers
    return _RoiAlign.apply(maps, boxes, images, *size, scale, samples)
