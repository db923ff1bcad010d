"""Which graph a model becomes, and what the graph computes in PyTorch."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from export_models import random_model
from mmengine.config import Config
from torch import Tensor

from crossformer_mm.export.graphs import graph_of
from crossformer_mm.export.segmentation import BinPooling
from crossformer_mm.utils.errors import UserError

IMAGE = torch.randint(256, (2, 64, 75, 3), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
SIZE = torch.tensor([[64, 75], [50, 33]])


@pytest.mark.parametrize('bins', [(1, 1), (2, 3), (6, 6)])
def test_pooling_in_bins_is_adaptive_pooling(bins: tuple[int, int]) -> None:
    for height, width in ((7, 11), (6, 12), (1, 5)):
        x = torch.rand(2, 3, height, width)
        torch.testing.assert_close(BinPooling(bins)(x), F.adaptive_avg_pool2d(x, bins))


def labels_of(cfg: Config) -> tuple[Tensor, Tensor]:
    """The labels of a segmentor's graph, and those that its logits give."""
    model = random_model(cfg)
    graph = graph_of(model)
    with torch.no_grad():
        (labels,) = graph(IMAGE, SIZE)
        logits = model.decode_head(model.extract_feat(graph.input(IMAGE, SIZE)))
    return labels, F.interpolate(logits, IMAGE.shape[1:3], mode='bilinear')


def test_a_segmentor_of_many_classes_has_labels_beyond_bytes(
    narrow_segmentor: Callable[[str], Config],
) -> None:
    cfg = narrow_segmentor('fpn_crossformer_s')
    cfg.model.decode_head.num_classes = 300
    labels, logits = labels_of(cfg)
    assert labels.dtype == torch.int32 and labels.max() > 255
    assert torch.equal(labels.long(), logits.argmax(1))


def test_a_segmentor_of_one_output_has_a_threshold(narrow_segmentor: Callable[[str], Config]) -> None:
    cfg = narrow_segmentor('upernet_crossformer_s')
    cfg.model.decode_head.update(num_classes=2, out_channels=1, threshold=0.45)
    labels, logits = labels_of(cfg)
    assert labels.dtype == torch.uint8
    assert torch.equal(labels, (logits[:, 0].sigmoid() > 0.45).byte())
    assert 0 < labels.float().mean() < 1


def test_models_that_predict_on_windows_are_refused(narrow_segmentor: Callable[[str], Config]) -> None:
    cfg = narrow_segmentor('upernet_crossformer_s')
    cfg.model.test_cfg = dict(mode='slide', crop_size=(64, 64), stride=(32, 32))
    with pytest.raises(UserError, match=r"mode is 'slide'.*--cfg-options model.test_cfg.mode=whole"):
        graph_of(random_model(cfg))


def test_other_models_are_refused(narrow_classifier: Callable[[str], Config]) -> None:
    cfg = narrow_classifier('crossformer_s_in1k')
    cfg.model.head = dict(type='MultiLabelLinearClsHead', num_classes=3, in_channels=256)
    cfg.model.neck = dict(type='GlobalAveragePooling')
    model = random_model(cfg)
    with pytest.raises(UserError, match=r'ImageClassifier with a MultiLabelLinearClsHead.*RetinaNet, Faster'):
        graph_of(model)
    assert graph_of(model, backbone_only=True).outputs == ('stage4',)
