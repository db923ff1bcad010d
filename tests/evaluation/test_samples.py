"""Data samples of the toolboxes as arrays."""

import numpy as np
import torch
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData

from crossformer_mm.evaluation.records import object_records
from crossformer_mm.evaluation.samples import predicted_objects


def test_objects_are_in_the_order_of_their_scores() -> None:
    masks = torch.zeros(3, 8, 9, dtype=torch.bool)
    for i in range(3):
        masks[i, i] = True
    found = InstanceData(
        scores=torch.tensor([0.2, 0.9, 0.5], dtype=torch.bfloat16),
        bboxes=torch.tensor([[0.0, 0, 1, 1], [1, 1, 12, 3], [2, 2, 5, 6]]),
        labels=torch.tensor([0, 1, 2]),
        masks=masks,
    )
    objects = predicted_objects(DetDataSample(pred_instances=found))
    assert objects.labels.tolist() == [1, 2, 0]
    assert objects.boxes.tolist() == [[1, 1, 12, 3], [2, 2, 5, 6], [0, 0, 1, 1]]
    assert np.allclose(objects.scores, [0.9, 0.5, 0.2], atol=2e-3)
    assert [int(mask.argmax()) // 9 for mask in objects.masks] == [1, 2, 0]

    records = object_records(objects, ['a', 'b', 'c'], (8, 9), 0.5)
    assert [(record['name'], record['bbox']) for record in records] == [
        ('b', [1, 1, 8, 2]),
        ('c', [2, 2, 3, 4]),
    ]
    del found.masks
    assert predicted_objects(DetDataSample(pred_instances=found)).masks is None
