"""Counting multiply-adds: compared with counts by hand and published figures, and invalid input."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import CONFIGS
from mmengine.config import Config
from torch import nn

from crossformer_mm import CrossFormer
from crossformer_mm.engine import cli
from crossformer_mm.engine.flops import (
    MAX_PIXELS,
    RULE,
    build_model,
    count,
    flops_parser,
    print_flops,
    usual_shape,
)
from crossformer_mm.utils.errors import UserError

HEIGHT, WIDTH = 64, 96


@pytest.fixture
def mask_rcnn(narrow_config: Callable[[str], Config]) -> nn.Module:
    return build_model(narrow_config('mask_rcnn_crossformer_s'))


def costs(model: nn.Module, height: int = HEIGHT, width: int = WIDTH) -> dict[str, int]:
    return {part.name: part.multiply_adds for part in count(model, height, width)}


# Window and interval on each axis at 224×448 pixels, by stage: of short and of long distance attention.
WINDOWS = {
    'map': [((7, 1), (112, 8)), ((7, 1), (56, 4)), ((7, 1), (28, 2)), ((7, 1), (7, 1))],
    'window': [((7, 1), (56, 8)), ((7, 1), (28, 4)), ((7, 1), (14, 2)), ((14, 1), (14, 1))],
}


@pytest.mark.parametrize('layout', WINDOWS)
def test_backbone_counts_every_product_once(mask_rcnn: nn.Module, layout: str) -> None:
    arch = {'embed_dims': 32, 'depths': (2, 2, 2, 2), 'num_heads': (1, 2, 4, 8)}
    mask_rcnn.backbone = CrossFormer(arch, long_distance=layout)
    multiply_adds = 56 * 112 * 3 * (16 * 16 + 8 * 64 + 4 * 256 + 4 * 1024)
    for s in range(4):
        H, W, C, P, h = 56 // 2**s, 112 // 2**s, 32 * 2**s, 2 * 2**s, 2**s
        for span, interval in WINDOWS[layout][s]:
            # tokens on an axis by the group that they are in
            rows, columns = (
                Counter((i // span, i % interval) for i in range(size)).values() for size in (H, W)
            )
            pairs = sum(a * a for a in rows) * sum(b * b for b in columns)
            offsets = (2 * max(rows) - 1) * (2 * max(columns) - 1)
            multiply_adds += 12 * C * C * H * W + 2 * C * pairs + offsets * P * (2 + P + P + h)
        if s < 3:
            multiply_adds += H * W // 4 * C * C * (4 + 16)
    assert costs(mask_rcnn, 224, 448)['backbone'] == multiply_adds


PARTS = {
    'mask_rcnn_crossformer_s': ['backbone', 'neck', 'rpn_head', 'roi_head.bbox_head', 'roi_head.mask_head'],
    'retinanet_crossformer_pp_s': ['backbone', 'neck', 'bbox_head'],
    'fpn_crossformer_t': ['backbone', 'neck', 'decode_head'],
    'upernet_crossformer_pp_s': ['backbone', 'decode_head', 'auxiliary_head'],
    'dino_crossformer_s': ['backbone', 'neck', 'transformer'],
    'deformable_detr_crossformer_s': ['backbone', 'neck', 'transformer'],
    'rtmdet_ins_crossformer_s': ['backbone', 'neck', 'bbox_head'],
    'mask2former_crossformer_s_coco': ['backbone', 'panoptic_head'],
    'mask2former_crossformer_s_ade20k': ['backbone', 'decode_head'],
    'segformer_crossformer_s': ['backbone', 'decode_head'],
}
FIRST = ('mask_rcnn_crossformer_s', 'fpn_crossformer_t', 'dino_crossformer_s')  # a model of each kind


@pytest.mark.parametrize(
    'name', [*FIRST, *(pytest.param(name, marks=pytest.mark.slow) for name in PARTS if name not in FIRST)]
)
def test_parts_sum_up_to_the_whole(
    name: str, narrow_config: Callable[[str], Config], narrow_segmentor: Callable[[str], Config]
) -> None:
    narrow = narrow_segmentor if 'decode_head' in PARTS[name] else narrow_config
    model = build_model(narrow(name))
    before = {key: value.clone() for key, value in model.state_dict().items()}
    *parts, whole = count(model, HEIGHT, WIDTH)
    assert [part.name for part in parts] == PARTS[name]
    assert all(part.multiply_adds > 0 for part in parts)
    assert whole.multiply_adds == sum(part.multiply_adds for part in parts if part.name != 'auxiliary_head')
    assert whole.parameters == sum(part.parameters for part in parts)
    assert whole.parameters == sum(parameter.numel() for parameter in model.parameters())
    assert not [module for module in model.modules() if isinstance(module, nn.SyncBatchNorm)]
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_heads_of_two_stages_take_a_fixed_number_of_regions(mask_rcnn: nn.Module) -> None:
    small, large = costs(mask_rcnn), costs(mask_rcnn, 2 * HEIGHT, 2 * WIDTH)
    head = mask_rcnn.roi_head.bbox_head
    assert small['roi_head.bbox_head'] == 1000 * sum(
        layer.weight.numel() for layer in head.modules() if isinstance(layer, nn.Linear)
    )
    for name in ('roi_head.bbox_head', 'roi_head.mask_head'):
        assert large[name] == small[name]
    assert large['rpn_head'] > 3.5 * small['rpn_head']


def test_a_cascade_pays_for_each_of_its_stages(narrow_config: Callable[[str], Config]) -> None:
    cascade = build_model(narrow_config('cascade_mask_rcnn_crossformer_s_3x'))
    single = build_model(narrow_config('mask_rcnn_crossformer_s'))
    assert costs(cascade)['roi_head.mask_head'] == 3 * costs(single)['roi_head.mask_head']


def test_a_classifier_has_a_backbone_and_a_head(narrow_classifier: Callable[[str], Config]) -> None:
    parts = costs(build_model(narrow_classifier('crossformer_s_in1k')))
    assert list(parts) == ['backbone', 'head', 'whole model']
    assert parts['head'] == 256 * 1000


def test_auxiliary_heads_are_no_part_of_a_prediction(narrow_segmentor: Callable[[str], Config]) -> None:
    cfg = narrow_segmentor('upernet_crossformer_s')
    one = costs(build_model(cfg))
    cfg.model.auxiliary_head = [cfg.model.auxiliary_head] * 2
    two = costs(build_model(cfg))
    assert two['auxiliary_head'] == 2 * one['auxiliary_head']
    assert two['whole model'] == one['whole model']


def test_sizes_are_those_of_papers(config: Callable[[str], Config]) -> None:
    assert usual_shape(config('mask_rcnn_crossformer_s')) == (800, 1280)
    assert usual_shape(config('fpn_crossformer_s')) == (1024, 1024)
    assert usual_shape(config('crossformer_s_in1k')) == (224, 224)
    assert usual_shape(Config()) == (800, 1280)


def test_heads_count_as_in_papers(tmp_path: Path) -> None:
    """The published figures of Mask R-CNN with Swin-T are 48 M and 267 G."""
    leaf = tmp_path / 'swin.py'
    leaf.write_text("_base_ = 'mmdet::swin/mask-rcnn_swin-t-p4-w7_fpn_1x_coco.py'\n")
    whole = count(build_model(Config.fromfile(leaf)), 800, 1280)[-1]
    assert whole.parameters / 1e6 == pytest.approx(48, abs=0.5)
    assert whole.multiply_adds / 1e9 == pytest.approx(267, abs=1)


@pytest.mark.slow
def test_transformers_count_as_in_papers(tmp_path: Path) -> None:
    """The published figures of DINO with ResNet-50 are 47 M and 279 G."""
    leaf = tmp_path / 'dino.py'
    leaf.write_text("_base_ = 'mmdet::dino/dino-4scale_r50_8xb2-12e_coco.py'\n")
    whole = count(build_model(Config.fromfile(leaf)), 800, 1280)[-1]
    assert whole.parameters / 1e6 == pytest.approx(47, abs=1)
    assert whole.multiply_adds / 1e9 == pytest.approx(279, abs=1)


@pytest.mark.parametrize('size', [(0, 800), (800, -1), (MAX_PIXELS, 2)])
def test_sizes_that_no_image_has(mask_rcnn: nn.Module, size: tuple[int, int]) -> None:
    with pytest.raises(UserError, match=rf'--shape {size[0]} {size[1]}: give a height and a width'):
        count(mask_rcnn, *size)


def test_a_part_that_is_not_known_is_named(mask_rcnn: nn.Module) -> None:
    mask_rcnn.encoder = nn.Linear(2, 2)
    with pytest.raises(UserError, match='cannot count a MaskRCNN with encoder'):
        count(mask_rcnn, HEIGHT, WIDTH)
    del mask_rcnn.encoder
    mask_rcnn.roi_head.mask_iou_head = nn.Linear(2, 2)
    with pytest.raises(UserError, match=r'cannot count a MaskRCNN with roi_head\.mask_iou_head'):
        count(mask_rcnn, HEIGHT, WIDTH)


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('model = None', 'has no model with a backbone'),
        ("model = dict(type='RPN')", 'has no model with a backbone'),
        ("model = dict(type='Nothing', backbone=dict(type='CrossFormer'))", 'Nothing is not in the'),
        ("model = dict(type='RPN', backbone=dict(type='CrossFormer'))", 'missing 4 required'),
    ],
)
def test_configs_without_a_model_to_count(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / 'mine.py'
    path.write_text(f"{text}\ncustom_imports = dict(imports=['crossformer_mm', 'mmdet.models'])\n")
    with pytest.raises(UserError, match=message) as refused:
        build_model(Config.fromfile(path))
    assert '\n' not in str(refused.value)


def test_tool_prints_the_parts_and_the_rule(capsys: pytest.CaptureFixture[str]) -> None:
    words = [str(CONFIGS / 'demo_mask_rcnn.py'), '--shape', '192', '160']
    assert cli.run(flops_parser(), print_flops, words) == 0
    printed = capsys.readouterr().out
    assert 'one image of 192×160 pixels' in printed
    assert printed.rstrip().endswith(RULE)
    for name in ('backbone', 'neck', 'rpn_head', 'roi_head.bbox_head', 'roi_head.mask_head', 'whole model'):
        assert f'\n{name} ' in printed
