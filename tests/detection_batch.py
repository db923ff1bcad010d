"""A batch of images with objects, in the format of MMDetection's pipelines."""

import torch
from mmdet.structures import DetDataSample
from mmdet.structures.mask import BitmapMasks
from mmengine.structures import InstanceData


def batch(counts: tuple[int, ...]) -> dict:
    """Images of 64×80 with the given numbers of square objects, in the format of MMDetection's pipelines."""
    samples, images = [], []
    for count in counts:
        boxes = torch.tensor([[8.0 * i, 8.0, 8.0 * i + 24, 40.0] for i in range(count)]).reshape(-1, 4)
        masks = torch.zeros(count, 64, 80, dtype=torch.uint8)
        for mask, (left, top, right, bottom) in zip(masks, boxes.int().tolist(), strict=True):
            mask[top:bottom, left:right] = 1
        samples.append(sample(boxes, masks))
        images.append(torch.randint(0, 255, (3, 64, 80), dtype=torch.uint8))
    return {'inputs': images, 'data_samples': samples}


def sample(boxes: torch.Tensor, masks: torch.Tensor) -> DetDataSample:
    truth = InstanceData(
        bboxes=boxes,
        labels=torch.arange(len(boxes)) % 3,
        masks=BitmapMasks(masks.numpy(), 64, 80),
    )
    meta = {'img_shape': (64, 80), 'ori_shape': (64, 80), 'scale_factor': (1.0, 1.0), 'img_id': 0}
    ignored = InstanceData(bboxes=boxes[:0])
    return DetDataSample(gt_instances=truth, ignored_instances=ignored, metainfo=meta)
