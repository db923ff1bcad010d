"""The page of all models: what each costs, counted here, beside what its authors published."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mmengine.config import Config
from torch import nn

from .complexity import RULE, SHAPES, build_model, count, usual_shape
from .crossformer import ARCHS, STEM_STRIDE
from .errors import UserError
from .grouping import find_groups
from .run_config import load_config

DETECTORS = ('mask_rcnn', 'cascade_mask_rcnn', 'retinanet')
SEGMENTORS = ('fpn', 'upernet')
VARIANTS = ('', '_3x', '_g14', '_pgs')
GROUPS = {
    'standard': {'group_sizes': None, 'intervals': None},
    'large': {'group_sizes': [14, 14, 7, 7], 'intervals': [16, 8, 2, 1]},
    'large, adaptive': {'group_sizes': [14, 14, 7, 7], 'adaptive_intervals': True},
}
# What the published multiply-adds have beside products and padding, in every row and in both settings of
# groups: so many a block, channel of stage 1 and pixel. Fitted to the published figures.
REST_RATE = 13.0


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
    groups: str = 'large'
    misprint: bool = False


PUBLISHED = {
    'mask_rcnn_crossformer_s': Published(45.4, 41.4, 50.2, 301.0),
    'mask_rcnn_crossformer_b': Published(47.2, 42.7, 71.5, 407.9),
    'mask_rcnn_crossformer_pp_s': Published(46.4, 42.1, 43.0, 287.4),
    'mask_rcnn_crossformer_pp_b': Published(47.7, 43.2, 71.5, 408.0),
    'mask_rcnn_crossformer_s_3x': Published(48.7, 43.9, 50.2, 291.1, 'standard'),
    'mask_rcnn_crossformer_b_3x': Published(49.8, 44.5, 71.5, 398.1, 'standard'),
    'cascade_mask_rcnn_crossformer_s_3x': Published(52.2, 45.2, 88.0, 769.7, 'standard'),
    'retinanet_crossformer_s': Published(44.4, None, 40.8, 282.0),
    'retinanet_crossformer_b': Published(46.2, None, 62.1, 389.0),
    'retinanet_crossformer_pp_s': Published(45.1, None, 40.8, misprint=True),
    'retinanet_crossformer_pp_b': Published(46.6, None, 62.2, 389.0),
    'fpn_crossformer_s': Published(46.4, None, 34.3, 209.8, 'standard'),
    'fpn_crossformer_b': Published(48.0, None, 55.6, 320.1, 'standard'),
    'fpn_crossformer_l': Published(49.1, None, 95.4, 482.7, 'standard'),
    'fpn_crossformer_pp_s': Published(47.4, None, 27.1, 199.5, 'standard'),
    'fpn_crossformer_pp_b': Published(48.6, None, 55.6, 331.1, 'large, adaptive'),
    'upernet_crossformer_s': Published(47.6, 48.4, 62.3, 979.5, 'large, adaptive'),
    'upernet_crossformer_b': Published(49.7, 50.6, 83.6, 1089.7, 'large, adaptive'),
    'upernet_crossformer_l': Published(50.4, 51.4, 125.5, 1257.8, 'large, adaptive'),
    'upernet_crossformer_pp_s': Published(49.4, 50.8, 53.1, 963.5, 'large, adaptive'),
    'upernet_crossformer_pp_b': Published(50.7, 51.0, 83.7, 1089.8, 'large, adaptive', misprint=True),
}


@dataclass(frozen=True)
class Explained:
    """How published multiply-adds come about, in units of 10⁹.

    Attributes:
        here: Counted here, in the setting of groups that fits.
        padding: What the published code computes for tokens that pad its maps.
        rest: :data:`REST_RATE` times blocks, channels and pixels.
        published: The authors' figure.
    """

    here: float
    padding: float
    rest: float
    published: float

    @property
    def difference(self) -> float:
        """The sum of all three against the published figure, in percent."""
        percent = 100 * ((self.here + self.padding + self.rest) / self.published - 1)
        return round(percent, 1) + 0.0  # no −0.0


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
    parts = explain(configs, name)
    figures = (parts.here, parts.padding, parts.rest, parts.published)
    cells = (f'{figure:.1f}' for figure in figures)
    return _line(f'`{name}`', PUBLISHED[name].groups, *cells, f'{parts.difference:+.1f} %')


def explain(configs: Path, name: str) -> Explained:
    """Take a config's published multiply-adds apart.

    Args:
        configs: The folder of configs.
        name: One of :data:`PUBLISHED` that has multiply-adds.

    Returns:
        Its parts.
    """
    published = PUBLISHED[name]
    cfg: Config = load_config(configs / f'{name}.py')
    cfg.model.backbone.update(GROUPS[published.groups])
    model = build_model(cfg)
    shape = usual_shape(cfg)
    *_, whole = count(model, *shape)
    return Explained(
        whole.multiply_adds / 1e9,
        published_padding(model.backbone, *shape) / 1e9,
        _rest(model.backbone, *shape) / 1e9,
        published.multiply_adds,
    )


def published_padding(backbone: nn.Module, height: int, width: int) -> int:
    """Multiply-adds that the published code spends on padding, and this network does not.

    The published code pads a map to whole groups (long distance attention: to whole macro-windows), computes
    qkv and proj on the padding too, and attends with all G² tokens of every group.

    Args:
        backbone: A CrossFormer.
        height: Pixels of the image; its maps must be larger than the groups.
        width: The same.

    Returns:
        How many it spends.
    """
    padding = 0
    for s, stage in enumerate(backbone.layers):
        stride = STEM_STRIDE * 2**s
        H, W = -(-height // stride), -(-width // stride)
        for block in stage.blocks:
            attn = block.attn
            C, G = attn.dims, attn.group_size
            I = -(-max(H, W) // G) if attn.adaptive else attn.interval
            padded = _round_up(H, G * I) * _round_up(W, G * I)
            pairs = sum(run.count * run.tokens**2 for run in find_groups(1, H, W, G, I).runs)
            padding += 4 * C**2 * (padded - H * W) + 2 * C * (padded * G**2 - pairs)
    return padding


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
        explained='\n'.join(explained_row(configs, name) for name in explained),
    )


def _rest(backbone: nn.Module, height: int, width: int) -> float:
    blocks = sum(len(stage.blocks) for stage in backbone.layers)
    return REST_RATE * blocks * backbone.out_channels[0] * height * width


def _round_up(length: int, step: int) -> int:
    return -(-length // step) * step


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
(their README), from ImageNet weights. AP and mIoU have not been reproduced here, which takes eight GPUs.

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

| config | groups that fit | counted here with them | + padding | + rest | published | sum against it |
|---|---|---|---|---|---|---|
{{explained}}

- **Groups.** The published figures of detectors fit the large groups in 1x, the standard ones in 3x: for S
  and B in Mask R-CNN the two differ by 9.8 or 9.9, and so do they here once padding is counted. Semantic
  FPN fits the standard ones but for ++B, which is 11.0 above B. UPerNet is above Semantic FPN by as much
  again: with B by 769.6, of which the heads explain 758.7, with ++B by those 758.7 alone. These 11.0 are
  7.4 with ++S and 14.3 with L, so they grow with the width, and are alike in S and B, so they are not in
  stage 3, where B is deeper: groups of stages 1 and 2, then, which are larger in the large setting. With
  its intervals, macro-windows would be 224 tokens wide, and a map of 256 padded to 448, which is 22.8 for
  B; adaptive intervals, ⌈side / G⌉, are the nearest that is known, with 6.3. The 4.7 between stay
  unexplained.
- **Padding.** The published code pads maps to whole groups and computes qkv, proj and attention on all of
  it. This network computes real tokens alone, for the same numbers. The column is what padding would cost.
- **Rest.** What remains is about the same in all settings of groups and in every model with the same
  backbone: {REST_RATE:g} multiply-adds a block, channel of stage 1 and pixel, which is what the column has
  (the rate is fitted to the rows of detectors). No product in the network grows like this: those with
  weights grow with the square of the width, those of attention change with the groups. It is not in the
  heads either: by the same rule, MMDetection's Mask R-CNN with Swin-T comes to 266.6, published as 267. So
  it is something that the authors' counter adds for each block; what, their tables do not tell. Without it,
  the figures here and their padding are 2 to 11 % below the published ones.
- **Auxiliary heads.** UPerNet's trains and does not predict. It has 3.8 with S and B, so little that the
  published figures do not tell whether they have it; it is not counted here.
- **Misprints.** RetinaNet with CrossFormer++-S is published with the parameters of CrossFormer-S. UPerNet
  with CrossFormer++-B has 83.645 M, published as 83.7.
"""
