"""The rule of the published multiply-adds: written out for a small network, and held against every row."""

from collections.abc import Callable
from math import ceil

import pytest
from conftest import CONFIGS
from mmengine.config import Config
from torch import nn

from crossformer_mm import CrossFormer
from crossformer_mm.complexity import build_model, count, usual_shape
from crossformer_mm.config.run import load_config
from crossformer_mm.model_zoo import GROUPS, PUBLISHED
from crossformer_mm.published_counts import PublishedCount, count_as_published

TOLERANCE = 0.06  # in units of 10⁹; half a printed digit is 0.05
COUNTED = [name for name, published in PUBLISHED.items() if published.multiply_adds]
# Of each kind of heads and each setting of groups, one row.
QUICK = [
    'mask_rcnn_crossformer_pp_s',
    'mask_rcnn_crossformer_s_3x',
    'cascade_mask_rcnn_crossformer_s_3x',
    'retinanet_crossformer_pp_b',
    'fpn_crossformer_pp_s',
    'fpn_crossformer_pp_b',
    'upernet_crossformer_pp_s',
]


def published_count(name: str, groups: str) -> PublishedCount:
    cfg = load_config(CONFIGS / f'{name}.py')
    cfg.model.backbone.update(GROUPS[groups])
    return count_as_published(build_model(cfg), *usual_shape(cfg))


@pytest.mark.parametrize(
    'name', [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in COUNTED]
)
def test_every_published_figure_fits_the_rule(name: str) -> None:
    published = PUBLISHED[name]
    total = published_count(name, published.groups).total / 1e9
    assert total == pytest.approx(published.multiply_adds, abs=TOLERANCE)


def test_the_other_groups_do_not_fit() -> None:
    for name in ('retinanet_crossformer_pp_b', 'fpn_crossformer_pp_s'):
        other = {'standard': 'large', 'large': 'standard'}[PUBLISHED[name].groups]
        total = published_count(name, other).total / 1e9
        assert abs(total - PUBLISHED[name].multiply_adds) > 5


def conv(tokens: int, inputs: int, outputs: int, kernel: int) -> int:
    """A convolution with a bias."""
    return tokens * outputs * (inputs * kernel**2 + 1)


def block(C: int, heads: int, G: int, I: int, H: int, W: int) -> int:
    """An even block where I is 0; else an odd one."""
    if I:
        R, S = ceil(H / I), ceil(W / I)
        padded = R * I * S * I
    else:
        R = S = G
        padded = ceil(H / G) * ceil(W / G) * G * G
    P = C // 16
    position_bias = (2 * R - 1) * (2 * S - 1) * (2 * P + 2 * P * P + P * heads + 3 * P)
    attention = padded * (4 * C * C + 2 * C * R * S)
    return attention + position_bias + 8 * C * C * H * W


def test_a_backbone_by_the_rule_written_out() -> None:
    """Two stages on maps of 21×30 and 11×15, which neither groups of 7 nor intervals of 2 divide."""
    arch = {'embed_dims': 32, 'depths': (4, 2, 1, 1), 'num_heads': (1, 2, 4, 8), 'acl': True}
    model = nn.Module()
    model.backbone = CrossFormer(arch, out_indices=(0, 1), intervals=(2, 1, 1, 1))
    stem = sum(conv(21 * 30, 3, width, kernel) for kernel, width in [(4, 16), (8, 8), (16, 4), (32, 4)])
    cooling = 21 * 30 * 32 * (9 + 1)
    stage_1 = 2 * block(32, 1, 7, 0, 21, 30) + 2 * block(32, 1, 7, 2, 21, 30) + cooling
    embedding = conv(11 * 15, 32, 32, 2) + conv(11 * 15, 32, 32, 4)
    stage_2 = block(64, 2, 7, 0, 11, 15) + block(64, 2, 7, 1, 11, 15)
    assert count_as_published(model, 84, 120).total == stem + stage_1 + embedding + stage_2


def test_parts_of_a_map_that_groups_and_windows_fit() -> None:
    """A map of 28×28 is four macro-windows of 14×14, and nothing is padded."""
    model = nn.Module()
    model.backbone = CrossFormer(
        {'embed_dims': 32, 'depths': (2, 1, 1, 1), 'num_heads': (1, 2, 4, 8)},
        out_indices=(0,),
        intervals=(2, 1, 1, 1),
    )
    parts = count_as_published(model, 112, 112)
    position_bias = (27**2 - 13**2) * (2 * 2 + 2 * 2 * 2 + 2 * 1)
    assert parts.counted == count(model, 112, 112)[-1].multiply_adds
    assert parts.whole_map == 2 * 32 * 28**2 * (14**2 - 7**2) + position_bias
    assert parts.padding == 0
    assert parts.small == 32 * 28**2 + 3 * 2 * (13**2 + 27**2)


def test_small_terms_of_heads(narrow_config: Callable[[str], Config]) -> None:
    """RetinaNet, on maps of 32×32 to 2×2: biases everywhere, a ReLU after each stacked convolution."""
    cfg = narrow_config('retinanet_crossformer_s')
    model = build_model(cfg)
    with_heads = count_as_published(model, 256, 256)
    backbone = nn.Module()
    backbone.backbone = model.backbone
    heads = with_heads.small - count_as_published(backbone, 256, 256).small
    width, classes = cfg.model.neck.out_channels, cfg.model.bbox_head.num_classes
    taken, made = (32**2 + 16**2 + 8**2), (32**2 + 16**2 + 8**2 + 4**2 + 2**2)
    neck = width * (taken + made)
    convolutions = 2 * cfg.model.bbox_head.stacked_convs * 2 * width * made
    assert heads == neck + convolutions + 9 * (classes + 4) * made


def test_pooling_counts_what_it_takes_and_training_heads_nothing(
    narrow_segmentor: Callable[[str], Config],
) -> None:
    model = build_model(narrow_segmentor('upernet_crossformer_s'))
    with_auxiliary = count_as_published(model, 256, 256)
    model.auxiliary_head = None
    assert count_as_published(model, 256, 256) == with_auxiliary
    branches = model.decode_head.psp_modules
    for branch in branches:
        # which pools alike, and is not in the rule
        branch[0] = nn.AdaptiveMaxPool2d(branch[0].output_size)
    without = count_as_published(model, 256, 256)
    assert with_auxiliary.small - without.small == len(branches) * 256 * 8 * 8


def test_counting_leaves_no_hooks(narrow_config: Callable[[str], Config]) -> None:
    model = build_model(narrow_config('mask_rcnn_crossformer_s'))
    count_as_published(model, 256, 256)
    assert not [layer for layer in model.modules() if layer._forward_hooks]
