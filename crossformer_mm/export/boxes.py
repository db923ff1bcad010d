"""Decoding boxes and choosing the best ones, as MMDetection does for one image, for a batch."""

from mmdet.models.task_modules.coders import DeltaXYWHBBoxCoder
from mmdet.models.task_modules.coders.delta_xywh_bbox_coder import delta2bbox
from mmengine.config import ConfigDict
from torch import Tensor, nn

from ..compat import sizes
from ..utils.errors import UserError
from .operators import survivors


def require(part: object, name: str, *supported: type) -> None:
    """Refuse a part of a detector whose computation is not reproduced here.

    Args:
        part: The part; instances of subclasses are refused too, since they can compute anything.
        name: What it is called in a config.
        supported: The classes that are.

    Raises:
        UserError: It is not an instance of these.
    """
    if type(part) not in supported:
        names = ', '.join(kind.__name__ for kind in supported)
        raise UserError(f'{name}: {type(part).__name__} cannot be exported; use {names}')


def require_decodable(head: nn.Module, name: str) -> None:
    """Refuse a head whose boxes are encoded in another way.

    Args:
        head: Predicts boxes.
        name: What it is called in a config.

    Raises:
        UserError: Its coder is another one, or has other options.
    """
    coder = head.bbox_coder
    require(coder, f'{name}.bbox_coder', DeltaXYWHBBoxCoder)
    if not coder.clip_border or coder.add_ctr_clamp:
        raise UserError(f'{name}.bbox_coder: clip_border must be True and add_ctr_clamp False to be exported')


def require_plain_nms(cfg: ConfigDict, name: str) -> None:
    """Refuse settings that choose boxes in another way.

    Args:
        cfg: The settings of a head in ``test_cfg``.
        name: What they are called in a config.

    Raises:
        UserError: They need another kind of non-maximum suppression, or do not limit the number of boxes.
    """
    nms = cfg.get('nms') or {}
    if nms.get('type') != 'nms' or set(nms) != {'type', 'iou_threshold'}:
        raise UserError(f"{name}.nms: {dict(nms)} cannot be exported; use type='nms' with iou_threshold")
    if cfg.max_per_img < 1:
        raise UserError(f'{name}.max_per_img: {cfg.max_per_img} cannot be exported; it must be at least 1')


def decoded(coder: DeltaXYWHBBoxCoder, boxes: Tensor, deltas: Tensor, size: Tensor) -> Tensor:
    """Move boxes and clip them to their images.

    Args:
        coder: Of the head that predicted ``deltas``.
        boxes: Left, top, right, bottom; ``(N, n, 4)``.
        deltas: How to move each box, ``(N, n, 4)``.
        size: Height and width of each image, ``(N, 2)``.

    Returns:
        ``(N, n, 4)``.
    """
    moved = delta2bbox(boxes.reshape(-1, 4), deltas.reshape(-1, 4), coder.means, coder.stds)
    moved = moved.reshape(-1, sizes(boxes)[1], 4)
    return moved.clamp(min=0).minimum(size[:, None, [1, 0, 1, 0]].to(moved))


def best(boxes: Tensor, scores: Tensor, groups: Tensor, cfg: ConfigDict) -> tuple[Tensor, Tensor, Tensor]:
    """Non-maximum suppression within each group, and the best boxes that survive.

    Args:
        boxes: Left, top, right, bottom; ``(N, n, 4)``.
        scores: ``(N, n)``; a box of score 0 is no candidate.
        groups: The class or the level of each box, int64, ``(N, n)``.
        cfg: The settings of the head in ``test_cfg``.

    Returns:
        boxes: ``(N, k, 4)``, best first; 0 for empty places. k is ``max_per_img``, or n if that is less.
        scores: ``(N, k)``; 0 for empty places.
        groups: ``(N, k)``; −1 for empty places.
    """
    # as mmcv.ops.batched_nms: boxes of different groups are moved so far that they cannot overlap
    step = boxes.where(scores[..., None] > 0, 0).amax((1, 2)) + 1
    apart = boxes + (groups * step[:, None])[..., None]
    scores, places = survivors(apart, scores, cfg.nms.iou_threshold, cfg.max_per_img)
    empty = scores == 0
    boxes = boxes.gather(1, places[..., None].expand(-1, -1, 4))
    return boxes.masked_fill(empty[..., None], 0), scores, groups.gather(1, places).masked_fill(empty, -1)
