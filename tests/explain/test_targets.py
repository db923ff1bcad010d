"""What is explained is what the toolboxes predict."""

from collections.abc import Callable

import pytest
import torch
from export_models import image_of, random_model
from mmengine.config import Config

from crossformer_mm.explain.cam import watched_map
from crossformer_mm.explain.targets import NoTarget, class_target, object_target, region_target

DETECTORS = [
    'retinanet_crossformer_s',
    pytest.param('mask_rcnn_crossformer_s', marks=pytest.mark.slow),
    pytest.param('deformable_detr_crossformer_s', marks=pytest.mark.slow),
    *(
        pytest.param(name, marks=pytest.mark.slow)
        for name in (
            'cascade_mask_rcnn_crossformer_s_3x',
            'dino_crossformer_s',
            'rtmdet_ins_crossformer_s',
            'mask2former_crossformer_s_coco',
        )
    ),
]


def prepared(model: torch.nn.Module, sample: type, image: torch.Tensor) -> dict:
    """A batch of one image that is not resized, from the model's data preprocessor."""
    size = tuple(image.shape[1:])
    meta = {'img_shape': size, 'ori_shape': size, 'scale_factor': (1.0, 1.0)}
    return model.data_preprocessor({'inputs': [image], 'data_samples': [sample(metainfo=meta)]}, False)


@pytest.mark.parametrize('name', DETECTORS)
def test_objects_are_those_of_the_detector_and_scores_have_gradients(
    narrow_config: Callable[[str], Config], name: str
) -> None:
    from mmdet.structures import DetDataSample

    cfg = narrow_config(name)
    test = cfg.model.test_cfg
    test.get('rcnn', test).update(score_thr=0.0)
    model = random_model(cfg).requires_grad_(False)
    image = torch.from_numpy(image_of(70, 90)).permute(2, 0, 1)
    (sample,) = model.test_step(
        {'inputs': [image], 'data_samples': [prepared(model, DetDataSample, image)['data_samples'][0]]}
    )
    found = sample.pred_instances
    order = found.scores.argsort(descending=True)
    assert len(order) > 3
    data = prepared(model, DetDataSample, image)
    for number in (1, 3):
        with torch.enable_grad(), watched_map(model.backbone, 1) as maps:
            target = object_target(model, data['inputs'], data['data_samples'][0], number, None, 0.0)
        one = order[number - 1]
        assert target.shown == pytest.approx(found.scores[one].item(), rel=1e-3)
        assert target.label == found.labels[one]
        torch.testing.assert_close(target.box, found.bboxes[one], rtol=1e-3, atol=0.1)
        (gradient,) = torch.autograd.grad(target.score, maps[0])
        assert gradient.isfinite().all()
        assert gradient.abs().max() > 0
        with torch.no_grad():
            again = target.again(torch.cat([data['inputs'], 0 * data['inputs']]))
        assert again[0] >= target.score - 1e-3, 'a better object may overlap it'
        assert again.shape == (2,)
    with pytest.raises(NoTarget, match=r'there are \d+ objects with a score of 0 or more, no object 99'):
        object_target(model, data['inputs'], data['data_samples'][0], 99, None, 0.0)
    with pytest.raises(NoTarget, match='no object has a score of 1 or more: the best has'):
        object_target(model, data['inputs'], data['data_samples'][0], 1, None, 1.0)


@torch.no_grad()
def test_objects_of_a_class_are_counted_alone(narrow_config: Callable[[str], Config]) -> None:
    from mmdet.structures import DetDataSample

    cfg = narrow_config('retinanet_crossformer_s')
    cfg.model.test_cfg.score_thr = 0.0
    model = random_model(cfg)
    data = prepared(model, DetDataSample, torch.from_numpy(image_of(64, 64)).permute(2, 0, 1))
    labels = [
        object_target(model, data['inputs'], data['data_samples'][0], number, None, 0.0).label
        for number in range(1, 6)
    ]
    other = next(label for label in labels if label != labels[0])
    target = object_target(model, data['inputs'], data['data_samples'][0], 1, other, 0.0)
    first = object_target(model, data['inputs'], data['data_samples'][0], labels.index(other) + 1, None, 0.0)
    assert target.label == other
    assert target.score == first.score


@pytest.mark.parametrize(
    'name',
    ['fpn_crossformer_s', pytest.param('mask2former_crossformer_s_ade20k', marks=pytest.mark.slow)],
)
def test_regions_are_those_of_the_segmentor(narrow_segmentor: Callable[[str], Config], name: str) -> None:
    from mmseg.structures import SegDataSample

    model = random_model(narrow_segmentor(name)).requires_grad_(False)
    image = torch.from_numpy(image_of(56, 64)).permute(2, 0, 1)
    data = prepared(model, SegDataSample, image)
    with torch.no_grad():
        (sample,) = model.predict(data['inputs'], [data['data_samples'][0].clone()])
    labels, logits = sample.pred_sem_seg.data[0], sample.seg_logits.data
    counts = labels.flatten().bincount()
    with torch.enable_grad(), watched_map(model.backbone, 3) as maps:
        target = region_target(model, data['inputs'], data['data_samples'][0])
    assert target.label == counts.argmax()
    torch.testing.assert_close(target.region, labels == target.label)
    expected = logits[target.label][target.region].mean()
    torch.testing.assert_close(target.score.detach(), expected, rtol=1e-4, atol=1e-5)
    assert torch.autograd.grad(target.score, maps)[0].abs().max() > 0
    with torch.no_grad():
        torch.testing.assert_close(target.again(data['inputs'])[0], expected, rtol=1e-4, atol=1e-5)
    absent = next(label for label in range(150) if label >= len(counts) or not counts[label])
    with pytest.raises(NoTarget, match='no pixel is predicted as this class'):
        region_target(model, data['inputs'], data['data_samples'][0], absent)


def test_the_class_of_a_classifier(narrow_classifier: Callable[[str], Config]) -> None:
    from mmpretrain.structures import DataSample

    model = random_model(narrow_classifier('crossformer_s_in1k')).requires_grad_(False)
    image = torch.from_numpy(image_of(64, 64)).permute(2, 0, 1)[None].float()
    (sample,) = model(image, [DataSample()], mode='predict')
    with watched_map(model.backbone, 3) as maps:
        target = class_target(model, image, sample)
        other = class_target(model, image, sample, 7)
    assert target.label == sample.pred_label.item()
    assert target.shown == pytest.approx(sample.pred_score[target.label].item())
    assert other.score == target.again(image)[0] * 0 + model(image)[0, 7]
    assert torch.autograd.grad(target.score, maps[0])[0].abs().max() > 0
