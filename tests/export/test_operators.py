"""The operators for boxes: in PyTorch and in onnxruntime, and against MMCV's functions for one image."""

import pytest
import torch
from exported_graph import Exported
from mmcv.ops import batched_nms
from mmengine.config import ConfigDict
from torch import Tensor, nn

from crossformer_mm.export.boxes import best
from crossformer_mm.export.operators import roi_align

pytestmark = pytest.mark.filterwarnings('ignore')  # about constants in the exported graphs
GROUPS = 3


class Best(nn.Module):
    def __init__(self, most: int) -> None:
        super().__init__()
        self.cfg = ConfigDict(nms=dict(type='nms', iou_threshold=0.5), max_per_img=most)

    def forward(self, boxes: Tensor, scores: Tensor, groups: Tensor) -> tuple[Tensor, ...]:
        return best(boxes, scores, groups, self.cfg)


class Align(nn.Module):
    def forward(self, maps: Tensor, boxes: Tensor, images: Tensor) -> Tensor:
        return roi_align(maps, boxes, images, (7, 5), 0.25, 0)


def random_boxes(count: int) -> Tensor:
    corner = torch.rand(count, 2) * 40
    return torch.cat((corner, corner + torch.rand(count, 2) * 40), 1)


def random_candidates(images: int, count: int) -> dict[str, Tensor]:
    """Boxes that overlap, the first of which are no candidates; in the last image none is one."""
    scores = torch.rand(images, count)
    scores[:, : count // 4] = 0
    scores[-1] = 0
    return {
        'boxes': torch.stack([random_boxes(count) for _ in range(images)]),
        'scores': scores,
        'groups': torch.randint(0, GROUPS, (images, count)),
    }


@pytest.fixture(scope='module')
def exported_best() -> Exported:
    torch.manual_seed(0)
    return Exported(Best(10), ('best', 'of', 'group'), **random_candidates(2, 50))


@pytest.mark.parametrize('most', [10, 40])
def test_boxes_are_those_that_mmcv_keeps_and_empty_places_follow(most: int) -> None:
    torch.manual_seed(1)
    inputs = random_candidates(2, 50)
    (boxes, empty_boxes), (scores, no_scores), (groups, no_groups) = Best(most)(**inputs)
    valid = inputs['scores'][0] > 0
    candidates = [values[0, valid] for values in inputs.values()]
    kept, places = batched_nms(*candidates, dict(type='nms', iou_threshold=0.5))
    assert 10 < len(kept) < valid.sum(), 'this does not test much'
    n = min(most, len(kept))
    assert torch.equal(torch.column_stack((boxes, scores))[:n], kept[:n])
    assert torch.equal(groups[:n], candidates[2][places[:n]])
    empty_places = torch.cat((boxes[n:], empty_boxes)), torch.cat((scores[n:], no_scores))
    assert not any(values.any() for values in empty_places)
    assert (torch.cat((groups[n:], no_groups)) == -1).all()


def test_there_are_no_more_places_than_boxes() -> None:
    torch.manual_seed(2)
    boxes, scores, groups = Best(10)(**random_candidates(2, 7))
    assert boxes.shape == (2, 7, 4) and scores.shape == groups.shape == (2, 7)


@pytest.mark.parametrize('images', [1, 2, 3])
def test_onnxruntime_keeps_the_same_boxes(exported_best: Exported, images: int) -> None:
    torch.manual_seed(3)
    inputs = random_candidates(images, 50)
    for ours, theirs in zip(exported_best(**inputs), Best(10)(**inputs), strict=True):
        assert torch.equal(ours, theirs)


def test_onnxruntime_samples_the_same_features() -> None:
    torch.manual_seed(0)
    inputs = {'maps': torch.randn(2, 3, 20, 20), 'boxes': random_boxes(9), 'images': torch.arange(9) % 2}
    inputs['boxes'][0] = 0  # an empty place
    inputs['boxes'][1] = torch.tensor([-9.0, -9.0, 99.0, 99.0])  # larger than the map
    exported = Exported(Align(), ['features'], **inputs)
    for count in (9, 1, 0):
        inputs.update(boxes=inputs['boxes'][:count], images=inputs['images'][:count])
        (ours,), theirs = exported(**inputs), Align()(**inputs)
        assert ours.shape == theirs.shape == (count, 3, 7, 5)
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)
    made_by = {name: node.op_type for node in exported.proto.graph.node for name in node.output}
    (boxes,) = (node.input[1] for node in exported.proto.graph.node if node.op_type == 'RoiAlign')
    assert made_by.get(boxes) == 'Reshape', 'OpenVINO needs to know that there are four numbers'
