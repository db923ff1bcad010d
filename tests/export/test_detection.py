"""The graphs of detectors, against MMDetection's own predictions, in PyTorch and in onnxruntime."""

import copy
from collections.abc import Callable

import pytest
import torch
from exported_graph import Exported
from mmdet.models import BaseDetector
from mmdet.models.roi_heads.mask_heads.fcn_mask_head import _do_paste_mask
from mmdet.structures import DetDataSample
from mmengine.config import Config
from mmengine.structures import InstanceData
from torch import Tensor, nn

from crossformer_mm.engine.flops import build_model
from crossformer_mm.export.detection import detector_graph
from crossformer_mm.plugins import register_toolbox
from crossformer_mm.utils.errors import UserError

pytestmark = pytest.mark.filterwarnings('ignore')  # about constants in the exported graphs
RETINANET, MASK, CASCADE = (
    'retinanet_crossformer_s',
    'mask_rcnn_crossformer_s',
    'cascade_mask_rcnn_crossformer_s_3x',
)
KINDS = [RETINANET, MASK, pytest.param(CASCADE, marks=pytest.mark.slow)]
SEESAW = {'roi_head.bbox_head.loss_cls.type': 'SeesawLoss', 'roi_head.bbox_head.loss_cls.num_classes': 80}
H, W = 64, 96
SIZE = torch.tensor([[H, W], [34, 50]])
IMAGE = torch.randint(0, 256, (2, H, W, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def random_model(cfg: Config) -> BaseDetector:
    """A model in evaluation mode that finds objects of many classes, with all levels for their features."""
    for extractor in ('bbox_roi_extractor', 'mask_roi_extractor'):
        if extractor in cfg.model.get('roi_head', ()):
            cfg.model.roi_head[extractor].finest_scale = 7
    if 'rpn' in cfg.model.test_cfg:
        cfg.model.test_cfg.rpn.max_per_img = 200  # more than survive
    cfg.model.backbone.arch.depths = (1, 1, 1, 1)
    register_toolbox('mmdet')
    torch.manual_seed(4)  # no two scores are so close that their order could change
    model = build_model(cfg)
    for name, weight in model.named_parameters():
        if weight.dim() > 1 and ('head' in name or 'neck' in name):
            nn.init.normal_(weight, std=(0.3 if 'reg' in name else 1.3) * weight[0].numel() ** -0.5)
        elif name.endswith('cls.bias'):
            nn.init.normal_(weight)
    for part in model.modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm):
            part.running_mean.normal_(0, 0.1)
            part.running_var.uniform_(0.5, 1.5)
    settings(model).score_thr = 0.02
    return model.eval().requires_grad_(False)


@pytest.fixture(scope='module')
def random_detector(narrow_config: Callable[[str], Config]) -> Callable[[str], BaseDetector]:
    models: dict[str, BaseDetector] = {}

    def get(name: str) -> BaseDetector:
        if name not in models:
            models[name] = random_model(narrow_config(name))
        return copy.deepcopy(models[name])

    return get


def predict(model: BaseDetector, image: Tensor, size: Tensor) -> list[InstanceData]:
    """What MMDetection predicts for images that its preprocessor normalises and that are then padded."""
    inputs, samples = torch.zeros(len(image), 3, H, W), []
    for i, (h, w) in enumerate(size.tolist()):
        bgr = image[i, :h, :w].flip(-1).permute(2, 0, 1)
        inputs[i, :, :h, :w] = model.data_preprocessor({'inputs': [bgr]})['inputs'][0, :, :h, :w]
        shapes = {'img_shape': (h, w), 'ori_shape': (h, w), 'scale_factor': (1.0, 1.0)}
        samples.append(DetDataSample(metainfo={**shapes, 'batch_input_shape': (H, W), 'pad_shape': (H, W)}))
    return [sample.pred_instances for sample in model.predict(inputs, samples, rescale=False)]


def assert_as_predicted(outputs: list[Tensor], model: BaseDetector, image: Tensor, size: Tensor) -> None:
    for boxes, scores, labels, *masks, (h, w), found in zip(
        *outputs, size.tolist(), predict(model, image, size), strict=True
    ):
        n = len(found)
        torch.testing.assert_close(boxes[:n], found.bboxes, rtol=0, atol=1e-3)
        torch.testing.assert_close(scores[:n], found.scores, rtol=0, atol=1e-4)
        assert torch.equal(labels[:n], found.labels)
        assert not boxes[n:].any() and not scores[n:].any() and (labels[n:] == -1).all()
        if masks and n:
            pasted, _ = _do_paste_mask(masks[0][:n, None], boxes[:n], h, w, skip_empty=False)
            assert ((pasted >= 0.5) != found.masks).float().mean() < 1e-3
            assert found.masks.any() and not found.masks.all()


def threshold(scores: Tensor, count: int) -> float:
    """A threshold that at least ``count`` scores of each image exceed, and no more in one image."""
    image = scores[:, count - 1].argmin()
    return float(scores[image, count - 1 : count + 1].mean())


def settings(model: BaseDetector) -> Config:
    """The settings by which the last head chooses boxes."""
    return model.bbox_head.test_cfg if hasattr(model, 'bbox_head') else model.roi_head.test_cfg


def assert_worth_testing(outputs: tuple[Tensor, ...]) -> None:
    """Check that a prediction has what can go wrong: classes, boxes at the edges of the image, all levels."""
    boxes, scores, labels, *masks = outputs
    assert (scores > 0).all(), 'there are fewer objects than places'
    assert len(labels.unique()) > 3
    assert (boxes == 0).any() and (boxes[1, :, 2:] == SIZE[1].flip(0)).any()
    sides = (boxes[..., 2:] - boxes[..., :2]).prod(-1).sqrt()
    assert not masks or (sides.min() < 14 and sides.max() > 28)


@pytest.mark.parametrize('name', KINDS)
def test_detectors_predict_what_mmdetection_does(
    random_detector: Callable[[str], BaseDetector], name: str
) -> None:
    model = random_detector(name)
    graph = detector_graph(model).eval()
    outputs = graph(IMAGE, SIZE)
    assert_worth_testing(outputs)
    assert_as_predicted(outputs, model, IMAGE, SIZE)
    settings(model).score_thr = threshold(outputs[1], 7)
    fewer = graph(IMAGE, SIZE)
    assert (fewer[1] > 0).sum(1).min() == 7
    assert_as_predicted(fewer, model, IMAGE, SIZE)
    settings(model).score_thr = 1.0
    assert_as_predicted(graph(IMAGE, SIZE), model, IMAGE, SIZE)


@pytest.mark.parametrize('name', KINDS)
def test_exported_detectors_predict_the_same(
    random_detector: Callable[[str], BaseDetector], name: str
) -> None:
    model = random_detector(name)
    graph = detector_graph(model).eval()
    settings(model).score_thr = threshold(graph(IMAGE, SIZE)[1], 7)
    exported = Exported(graph, graph.outputs, image=IMAGE, size=SIZE)
    assert {node.domain for node in exported.proto.graph.node} == {''}
    assert [(opset.domain, opset.version) for opset in exported.proto.opset_import] == [('', 17)]
    for images in ([0], [1], [1, 0], [0, 1, 1]):
        outputs = exported(image=IMAGE[images], size=SIZE[images])
        assert (outputs[1] > 0).sum(1).min() >= 7
        assert_as_predicted(outputs, model, IMAGE[images], SIZE[images])
    black = torch.zeros_like(IMAGE)
    assert_as_predicted(exported(image=black, size=SIZE), model, black, SIZE)


def test_heads_that_predict_for_all_classes_at_once(narrow_config: Callable[[str], Config]) -> None:
    cfg = narrow_config(MASK)
    cfg.model.roi_head.bbox_head.reg_class_agnostic = True
    cfg.model.roi_head.mask_head.class_agnostic = True
    model = random_model(cfg)
    outputs = detector_graph(model).eval()(IMAGE, SIZE)
    assert_worth_testing(outputs)
    assert_as_predicted(outputs, model, IMAGE, SIZE)


def test_detectors_without_masks(narrow_config: Callable[[str], Config]) -> None:
    cfg = narrow_config(MASK)
    cfg.model.type = 'FasterRCNN'
    cfg.model.roi_head.mask_head = None
    model = random_model(cfg)
    graph = detector_graph(model).eval()
    assert (graph.task, graph.outputs) == ('detection', ('boxes', 'scores', 'labels'))
    assert_as_predicted(graph(IMAGE, SIZE), model, IMAGE, SIZE)


def test_without_regions_there_are_no_objects(random_detector: Callable[[str], BaseDetector]) -> None:
    model = random_detector(MASK)
    nn.init.constant_(model.rpn_head.rpn_cls.bias, -1000)
    settings(model).score_thr = 0.0
    boxes, scores, labels, masks = detector_graph(model).eval()(IMAGE, SIZE)
    assert not boxes.any() and not scores.any() and (labels == -1).all()
    assert masks.isfinite().all()


@pytest.mark.parametrize(
    ('name', 'changes', 'message'),
    [
        (RETINANET, {'test_cfg.nms.type': 'soft_nms'}, r"bbox_head\.test_cfg\.nms: .*soft_nms.*type='nms'"),
        (RETINANET, {'test_cfg.nms.class_agnostic': True}, r'nms: .*class_agnostic'),
        (RETINANET, {'test_cfg.max_per_img': -1}, r'max_per_img: -1 .* at least 1'),
        (RETINANET, {'test_cfg.nms_pre': -1}, r'nms_pre: '),
        (RETINANET, {'bbox_head.type': 'PISARetinaHead'}, r'bbox_head: PISARetinaHead .* use RetinaHead'),
        (RETINANET, {'type': 'ATSS'}, r'model: ATSS .* RetinaNet, FasterRCNN, MaskRCNN, CascadeRCNN'),
        (RETINANET, {'bbox_head.bbox_coder.add_ctr_clamp': True}, r'bbox_coder: .*add_ctr_clamp False'),
        (RETINANET, {'bbox_head.bbox_coder.type': 'TBLRBBoxCoder'}, r'bbox_coder: TBLRBBoxCoder'),
        (MASK, {'rpn_head.loss_cls.use_sigmoid': False}, r'rpn_head\.loss_cls: .* sigmoids'),
        (MASK, {'test_cfg.rcnn.nms.type': 'soft_nms'}, r'roi_head\.test_cfg\.nms: '),
        (MASK, {'test_cfg.rcnn.mask_thr_binary': 0.4}, r'mask_thr_binary: 0\.4 .* use 0\.5'),
        (MASK, {'roi_head.type': 'PISARoIHead'}, r'roi_head: PISARoIHead .* CascadeRoIHead'),
        (MASK, SEESAW, r'bbox_head\.loss_cls: .* softmax'),
        (
            MASK,
            {'roi_head.bbox_roi_extractor.type': 'GenericRoIExtractor'},
            r'bbox_roi_extractor: GenericRoI',
        ),
        (MASK, {'roi_head.mask_roi_extractor.roi_layer.aligned': False}, r'mask_roi_extractor\.roi_layer: '),
        (MASK, {'roi_head.mask_head.type': 'CoarseMaskHead'}, r'mask_head: CoarseMaskHead .* FCNMaskHead'),
    ],
)
def test_what_would_be_computed_differently_is_refused(
    narrow_config: Callable[[str], Config], name: str, changes: dict[str, object], message: str
) -> None:
    cfg = narrow_config(name)
    cfg.merge_from_dict({f'model.{key}': value for key, value in changes.items()})
    register_toolbox('mmdet')
    with torch.device('meta'):
        model = build_model(cfg)
    with pytest.raises(UserError, match=message):
        detector_graph(model)
