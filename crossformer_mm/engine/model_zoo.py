"""The page of all models: what each costs, counted here, beside what its authors published."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..models.crossformer import ARCHS
from ..utils.errors import UserError
from .config import load_config
from .flops import RULE, SHAPES, build_model, count, usual_shape

DETECTORS = ('mask_rcnn', 'cascade_mask_rcnn', 'retinanet')
SEGMENTORS = ('fpn', 'upernet')
VARIANTS = ('', '_3x', '_g14', '_pgs')
LARGE_GROUPS = {'group_sizes': [14, 14, 7, 7], 'intervals': [16, 8, 2, 1]}


@dataclass(frozen=True)
class Published:
    """A row of the authors' tables.

    Attributes:
        score: Detectors: AP of boxes on COCO val2017. Segmentors: mIoU on ADE20K's validation images.
        second: Detectors: AP of masks. Segmentors: mIoU at six scales and flipped.
        parameters: In millions.
        multiply_adds: In units of 10⁹, for an image of the usual size.
        large_groups: Whether the multiply-adds fit large groups, while the config has standard ones.
        misprint: Whether the parameters cannot be this model's.
    """

    score: float
    second: float | None = None
    parameters: float | None = None
    multiply_adds: float | None = None
    large_groups: bool = False
    misprint: bool = False


PUBLISHED = {
    'mask_rcnn_crossformer_s': Published(45.4, 41.4, 50.2, 301.0),
    'mask_rcnn_crossformer_b': Published(47.2, 42.7, 71.5, 407.9),
    'mask_rcnn_crossformer_pp_s': Published(46.4, 42.1, 43.0, 287.4),
    'mask_rcnn_crossformer_pp_b': Published(47.7, 43.2, 71.5, 408.0),
    'mask_rcnn_crossformer_s_3x': Published(48.7, 43.9, 50.2, 291.1, large_groups=True),
    'mask_rcnn_crossformer_b_3x': Published(49.8, 44.5, 71.5, 398.1, large_groups=True),
    'cascade_mask_rcnn_crossformer_s_3x': Published(52.2, 45.2, 88.0, 769.7, large_groups=True),
    'retinanet_crossformer_s': Published(44.4, None, 40.8, 282.0),
    'retinanet_crossformer_b': Published(46.2, None, 62.1, 389.0),
    'retinanet_crossformer_pp_s': Published(45.1, None, 40.8, misprint=True),
    'retinanet_crossformer_pp_b': Published(46.6, None, 62.2, 389.0),
    'fpn_crossformer_s': Published(46.4, None, 34.3, 209.8),
    'fpn_crossformer_b': Published(48.0, None, 55.6, 320.1, large_groups=True),
    'fpn_crossformer_l': Published(49.1, None, 95.4, 482.7),
    'fpn_crossformer_pp_s': Published(47.4, None, 27.1, 199.5, large_groups=True),
    'fpn_crossformer_pp_b': Published(48.6, None, 55.6, 331.1),
    'upernet_crossformer_s': Published(47.6, 48.4, 62.3, 979.5),
    'upernet_crossformer_b': Published(49.7, 50.6, 83.6, 1089.7),
    'upernet_crossformer_l': Published(50.4, 51.4, 125.5, 1257.8),
    'upernet_crossformer_pp_s': Published(49.4, 50.8, 53.1, 963.5),
    'upernet_crossformer_pp_b': Published(50.7, 51.0, 83.7, 1089.8, misprint=True),
}


def config_names(configs: Path, kinds: Sequence[str] = DETECTORS + SEGMENTORS) -> list[str]:
    """The configs that have a row, in the order of the page.

    Args:
        configs: The folder of configs.
        kinds: What their names begin with.

    Returns:
        Their names, without the suffix.

    Raises:
        UserError: The folder holds none.
    """
    stems = {path.stem for path in configs.glob('*.py')}
    # of each kind and arch the plain config first, then its variants
    prefixes = [f'{kind}_crossformer_{arch}' for kind in kinds for arch in ARCHS]
    names = [prefix + variant for prefix in prefixes for variant in VARIANTS if prefix + variant in stems]
    if not names:
        raise UserError(f'{configs}: no configs of models there; name the folder that holds them')
    return names


def row(configs: Path, name: str) -> str:
    """A config's line in its table."""
    cfg = load_config(configs / f'{name}.py')
    *_, whole = count(build_model(cfg), *usual_shape(cfg))
    here = [f'{whole.parameters / 1e6:.1f}', f'{whole.multiply_adds / 1e9:.1f}']
    published = PUBLISHED.get(name)
    if published is None:
        return _line(f'`{name}`', *here, *[''] * 5)
    if published.large_groups:
        cfg.model.backbone.update(LARGE_GROUPS)
        *_, whole = count(build_model(cfg), *usual_shape(cfg))
    return _line(f'`{name}`', *here, *_published_cells(published, whole.multiply_adds / 1e9))


def page(configs: Path) -> str:
    """Write ``docs/model_zoo.md`` anew.

    Args:
        configs: The folder of configs.

    Returns:
        The page's text.

    Raises:
        UserError: The folder holds no configs, or one of them does not work.
    """
    detectors, segmentors = (
        '\n'.join(row(configs, name) for name in config_names(configs, kinds))
        for kinds in (DETECTORS, SEGMENTORS)
    )
    return _PAGE.format(detectors=detectors, segmentors=segmentors)


def _published_cells(published: Published, counted: float) -> list[str]:
    """The published figures, and how far the multiply-adds exceed those counted with the groups that fit."""
    figures = (published.parameters, published.multiply_adds, published.score, published.second)
    parameters, multiply_adds, *scores = ['' if figure is None else f'{figure:.1f}' for figure in figures]
    if published.misprint:
        parameters += ' (a misprint)'
    excess = ''
    if published.multiply_adds:
        excess = f'{published.multiply_adds / counted - 1:+.1%}' + ' *' * published.large_groups
    return [parameters, multiply_adds, excess, *scores]


def _line(*cells: str) -> str:
    return f'| {" | ".join(cells)} |'


_PAGE = f"""# Models

Written by `python tools/model_zoo.py`; a test fails when it is out of date.

**Parameters and multiply-adds are counted here**, by the rule below; `python tools/get_flops.py CONFIG`
splits them into backbone, neck and heads, at any size of image. **What is called published is the authors'**
(their README), from ImageNet weights. AP and mIoU have not been reproduced here, which takes eight GPUs.

The published multiply-adds exceed the counted ones (column "excess") because the authors' code computes on
maps padded to multiples of G or I, while this network pads nothing, and because their figures include small
terms, such as biases and activations.

## Detection on COCO, one image of {SHAPES['mmdet'][1]}×{SHAPES['mmdet'][0]}

Parameters in millions, multiply-adds in units of 10⁹ ("FLOPs G" in papers).

| config | parameters | multiply-adds | published: parameters | multiply-adds | excess | box AP | mask AP |
|---|---|---|---|---|---|---|---|
{{detectors}}

\\* The published figure fits large groups and the config has standard ones: the excess is over large groups.

`t`, `s`, `b`, `l` are CrossFormer, `pp_…` CrossFormer++. 1x is 12 epochs, `_3x` 36 with multi-scale training.
Groups are standard (7 7 7 7, intervals 8 4 2 1) but for `_g14` (large: 14 14 7 7, intervals 16 8 2 1) and
`_pgs` (progressive: 4 4 14 7, intervals 4 2 1 1). Groups of long distance attention span the map, which the
published multiply-adds fit; those of `_pgs` span macro-windows (`long_distance='window'`), as in the released
++ classifiers. Neither changes a weight's shape: one checkpoint serves all.

{RULE}

## Segmentation on ADE20K, one image of {SHAPES['mmseg'][1]}×{SHAPES['mmseg'][0]}

`fpn_…` is Semantic FPN, 80k iterations, `upernet_…` UPerNet, 160k; mIoU at one scale, and at six scales and
flipped. Groups are large in Semantic FPN with CrossFormer-S and -L, as in the authors' configs, and standard
in all others. UPerNet's parameters are those of training, with its auxiliary head; its multiply-adds are
those of a prediction, without it.

| config | parameters | multiply-adds | published: parameters | multiply-adds | excess | mIoU | six scales |
|---|---|---|---|---|---|---|---|
{{segmentors}}

Misprints: RetinaNet with CrossFormer++-S is published with the parameters of CrossFormer-S, and UPerNet with
CrossFormer++-B, which has 83.645 M, with 83.7.
"""
