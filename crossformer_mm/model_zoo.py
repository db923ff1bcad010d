"""The page of all models: what each costs, counted here, beside what its authors published."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .complexity import RULE, SHAPES, build_model, count, usual_shape
from .config.run import load_config
from .errors import UserError
from .models.crossformer import ARCHS
from .published_counts import PublishedCount, count_as_published

DETECTORS = ('mask_rcnn', 'cascade_mask_rcnn', 'retinanet')
SEGMENTORS = ('fpn', 'upernet')
VARIANTS = ('', '_3x', '_g14', '_pgs')
GROUPS = {
    'standard': {'group_sizes': None, 'intervals': None},
    'large': {'group_sizes': [14, 14, 7, 7], 'intervals': [16, 8, 2, 1]},
}


@dataclass(frozen=True)
class Published:
    """A row of the authors' tables.

    Attributes:
        score: Detectors: AP of boxes on COCO val2017. Segmentors: mIoU on ADE20K's validation images.
        second: Detectors: AP of masks. Segmentors: mIoU at six scales and flipped.
        parameters: In millions.
        multiply_adds: In units of 10⁹, for an image of the usual size.
        groups: The setting of groups that the multiply-adds fit.
        misprint: Whether the parameters cannot be this model's.
    """

    score: float
    second: float | None = None
    parameters: float | None = None
    multiply_adds: float | None = None
    groups: str = 'standard'
    misprint: bool = False


PUBLISHED = {
    'mask_rcnn_crossformer_s': Published(45.4, 41.4, 50.2, 301.0),
    'mask_rcnn_crossformer_b': Published(47.2, 42.7, 71.5, 407.9),
    'mask_rcnn_crossformer_pp_s': Published(46.4, 42.1, 43.0, 287.4),
    'mask_rcnn_crossformer_pp_b': Published(47.7, 43.2, 71.5, 408.0),
    'mask_rcnn_crossformer_s_3x': Published(48.7, 43.9, 50.2, 291.1, 'large'),
    'mask_rcnn_crossformer_b_3x': Published(49.8, 44.5, 71.5, 398.1, 'large'),
    'cascade_mask_rcnn_crossformer_s_3x': Published(52.2, 45.2, 88.0, 769.7, 'large'),
    'retinanet_crossformer_s': Published(44.4, None, 40.8, 282.0),
    'retinanet_crossformer_b': Published(46.2, None, 62.1, 389.0),
    'retinanet_crossformer_pp_s': Published(45.1, None, 40.8, misprint=True),
    'retinanet_crossformer_pp_b': Published(46.6, None, 62.2, 389.0),
    'fpn_crossformer_s': Published(46.4, None, 34.3, 209.8, 'large'),
    'fpn_crossformer_b': Published(48.0, None, 55.6, 320.1, 'large'),
    'fpn_crossformer_l': Published(49.1, None, 95.4, 482.7, 'large'),
    'fpn_crossformer_pp_s': Published(47.4, None, 27.1, 199.5, 'large'),
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
    """A config's line in the table of models."""
    cfg = load_config(configs / f'{name}.py')
    *_, whole = count(build_model(cfg), *usual_shape(cfg))
    published = PUBLISHED.get(name)
    here = (f'{whole.parameters / 1e6:.1f}', f'{whole.multiply_adds / 1e9:.1f}')
    return _line(f'`{name}`', *here, *(_published_cells(published) if published else [''] * 4))


def explained_row(configs: Path, name: str) -> str:
    """A published config's line in the table that explains its multiply-adds."""
    published, parts = PUBLISHED[name], explain(configs, name)
    terms = (parts.counted, parts.whole_map, parts.padding, parts.small, parts.total)
    cells = [f'{term / 1e9:.2f}' for term in terms]
    difference = round(parts.total / 1e9 - published.multiply_adds, 2) + 0.0  # no −0.0
    cells += [f'{published.multiply_adds:.1f}', f'{difference:+.2f}']
    return _line(f'`{name}`', published.groups, *cells)


def explain(configs: Path, name: str) -> PublishedCount:
    """Count a config's model by the rule of the published figures, with the groups that fit.

    Args:
        configs: The folder of configs.
        name: One of :data:`PUBLISHED`.

    Returns:
        The count, taken apart.
    """
    cfg = load_config(configs / f'{name}.py')
    cfg.model.backbone.update(GROUPS[PUBLISHED[name].groups])
    return count_as_published(build_model(cfg), *usual_shape(cfg))


def page(configs: Path) -> str:
    """Write ``docs/model_zoo.md`` anew.

    Args:
        configs: The folder of configs.

    Returns:
        The page's text.

    Raises:
        UserError: The folder holds no configs, or one of them does not work.
    """
    names = config_names(configs)
    explained = [name for name in names if name in PUBLISHED and PUBLISHED[name].multiply_adds]
    detectors, segmentors = (config_names(configs, kinds) for kinds in (DETECTORS, SEGMENTORS))
    return _PAGE.format(
        detectors='\n'.join(row(configs, name) for name in detectors),
        segmentors='\n'.join(row(configs, name) for name in segmentors),
        figures=len(explained),
        explained='\n'.join(explained_row(configs, name) for name in explained),
    )


def _published_cells(published: Published) -> list[str]:
    figures = (published.parameters, published.multiply_adds, published.score, published.second)
    cells = ['' if figure is None else f'{figure:.1f}' for figure in figures]
    if published.misprint:
        cells[0] += ' (a misprint)'
    return cells


def _line(*cells: str) -> str:
    return f'| {" | ".join(cells)} |'


_PAGE = f"""# Models

Written by `python tools/model_zoo.py`; a test fails when it is out of date.

**Parameters and multiply-adds are counted here**, by the rule below; `python tools/get_flops.py CONFIG`
splits them into backbone, neck and heads, at any size of image. **What is called published is the authors'**
(their README), from ImageNet weights. Their multiply-adds fit another rule,
[which is explained below](#where-the-published-multiply-adds-come-from). AP and mIoU have not been reproduced
here, which takes eight GPUs.

## Detection on COCO, one image of {SHAPES['mmdet'][1]}×{SHAPES['mmdet'][0]}

Parameters in millions, multiply-adds in units of 10⁹ ("FLOPs G" in papers).

| config | parameters | multiply-adds | published: parameters | multiply-adds | box AP | mask AP |
|---|---|---|---|---|---|---|
{{detectors}}

`t`, `s`, `b`, `l` are CrossFormer, `pp_…` CrossFormer++. 1x is 12 epochs, `_3x` 36 with multi-scale training.
Groups are standard (7 7 7 7, intervals 8 4 2 1) but for `_g14` (large: 14 14 7 7, intervals 16 8 2 1) and
`_pgs` (progressive: 4 4 14 7, intervals 4 2 1 1). They change no weight's shape: one checkpoint serves all.

{RULE}

## Segmentation on ADE20K, one image of {SHAPES['mmseg'][1]}×{SHAPES['mmseg'][0]}

`fpn_…` is Semantic FPN, 80k iterations, `upernet_…` UPerNet, 160k; mIoU at one scale, and at six scales and
flipped. Groups are standard. UPerNet's parameters are those of training, with its auxiliary head; its
multiply-adds are those of a prediction, without it.

| config | parameters | multiply-adds | published: parameters | multiply-adds | mIoU | at six scales |
|---|---|---|---|---|---|---|
{{segmentors}}

## Where the published multiply-adds come from

They are 3 to 19 % above those counted here. The authors do not state their rule. The one below is
**inferred from their figures**: all {{figures}} fit it within 0.06, of which their rounding may be 0.05.
A column with a + is what that rule counts and the rule above does not, for the groups that fit.

| config | groups | counted here | + map-wide groups | + padding | + small | sum | published | difference |
|---|---|---|---|---|---|---|---|---|
{{explained}}

- **Map-wide groups.** In long distance attention all tokens whose row and column agree modulo I are one
  group, ⌈H/I⌉ × ⌈W/I⌉ of a map of H×W; there are no macro-windows. In stage 4, where I is 1, every second
  block attends to the whole map. The column has what this adds to attention's products and to the position
  bias. It is most of the gap.
- **Padding.** Maps are filled up to multiples of G (short distance) or I (long distance); qkv, proj and
  attention's products are computed on all of it, the MLP on real tokens alone. This network pads nothing.
- **Small terms.** One for each number that a convolution with a bias or a ReLU layer puts out, or that a
  pooling layer takes. Norms, GELU and softmax are not counted, nor is UPerNet's auxiliary head (3.8 with S
  and B), which trains and does not predict.
- **Groups.** Standard ones fit: detectors in 1x, UPerNet, and Semantic FPN with ++B. Large: 3x, and the rest
  of Semantic FPN. The other setting misses by 6.7 or more in every row. Large groups come out cheaper by this
  rule: intervals are twice as long in stages 1 and 2, so a map-wide group has a quarter of the tokens.
- **What it means.** The released code, whose outputs this network reproduces, groups tokens in macro-windows.
  So the figures seem to come from another version or mode of it. Which layout the networks with the
  published AP and mIoU had, figures of cost do not tell.
- **Misprints.** RetinaNet with CrossFormer++-S is published with the parameters of CrossFormer-S. UPerNet
  with CrossFormer++-B has 83.645 M, published as 83.7.
"""
