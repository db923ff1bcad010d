"""``tools/model_zoo.py``: compare the cost of every config's model with the authors' figures.

It writes the page ``docs/model_zoo.md``, and the index ``model-index.yml`` for OpenMMLab's tools.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mmengine
from mmengine.config import Config, ConfigDict
from torch import nn

from ..data.datasets import build_network
from ..models.arch import ARCHS
from ..utils.errors import UserError
from ..utils.files import check_free, write_atomically
from ..utils.progress import progress_bar
from .benchmark import GROUPS, SWINS
from .config import load_config
from .flops import SHAPES, Part, build_model, count, usual_shape

DETECTORS = ('mask_rcnn', 'cascade_mask_rcnn', 'retinanet')
SEGMENTORS = ('fpn', 'upernet')
TOOLBOX_HEADS = ('dino', 'deformable_detr', 'rtmdet_ins', 'mask2former', 'segformer')
VARIANTS = ('', '_3x', '_g14', '_pgs', '_coco', '_ade20k')
CLASSIFIER = '_in1k'  # in the names of classifiers' configs, before the name of an ablation
ABLATIONS = ('_single_scale', '_cel_stage1', '_short_distance', '_dpb_residual', '_rpb', '_ape')
AUTHORS = 'https://github.com/cheerss/CrossFormer'
PAPERS = {
    'CrossFormer': 'https://arxiv.org/abs/2108.00154',
    'CrossFormer++': 'https://arxiv.org/abs/2303.06908',
}


@dataclass(frozen=True)
class Published:
    """A row of the authors' tables.

    Attributes:
        score: Detectors: AP of boxes on COCO val2017. Segmentors: mIoU on ADE20K's validation images.
            Classifiers: top-1 on ImageNet's validation images.
        second: Detectors: AP of masks. Segmentors: mIoU at six scales and flipped.
        parameters: Number of parameters in millions.
        multiply_adds: Multiply-adds in units of 10⁹, for an image of the usual size.
        large_groups: Whether the multiply-adds fit large groups, while the config has standard ones.
        misprint: Whether the parameters cannot be this model's; of a classifier, the multiply-adds.
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
    'crossformer_t_in1k': Published(81.5, None, 27.8, 2.9),
    'crossformer_s_in1k': Published(82.5, None, 30.7, 4.9),
    'crossformer_b_in1k': Published(83.4, None, 52.0, 9.2),
    'crossformer_l_in1k': Published(84.0, None, 92.0, 16.1),
    'crossformer_pp_s_in1k': Published(83.2, None, 23.3, 4.9, misprint=True),
    'crossformer_pp_b_in1k': Published(84.2, None, 52.0, 9.5),
    'crossformer_pp_l_in1k': Published(84.7, None, 92.0, 16.6),
    'crossformer_pp_h_in1k': Published(84.9, None, 96.0, 21.8, misprint=True),
}


# For each config of TOOLBOX_HEADS, the Swin of like size, and what the toolboxes or detrex publish with it.
SWIN_BESIDE = {
    'dino_crossformer_s': ('swin_t', 'box AP 51.3'),
    'dino_crossformer_b': ('swin_s', 'box AP 53.0'),
    'dino_crossformer_l': ('swin_b', 'box AP 55.8 *'),
    'deformable_detr_crossformer_s': ('swin_t', ''),
    'rtmdet_ins_crossformer_s': ('swin_t', ''),
    'mask2former_crossformer_s_coco': ('swin_t', 'box AP 47.7, mask AP 44.7'),
    'mask2former_crossformer_b_coco': ('swin_s', 'box AP 49.3, mask AP 46.1'),
    'mask2former_crossformer_l_coco': ('swin_b', ''),
    'mask2former_crossformer_s_ade20k': ('swin_t', 'mIoU 48.66'),
    'mask2former_crossformer_b_ade20k': ('swin_s', 'mIoU 51.24'),
    'mask2former_crossformer_l_ade20k': ('swin_b', 'mIoU 52.44 *'),
    'segformer_crossformer_s': ('swin_t', ''),
}


def model_zoo_parser() -> argparse.ArgumentParser:
    """The options of ``tools/model_zoo.py``."""
    parser = argparse.ArgumentParser(
        description='Count the models of all configs, and write their page and their index (five minutes).'
    )
    parser.add_argument(
        '--configs', type=Path, default=Path('configs'), help='the folder of configs (configs)'
    )
    for option, default, what in (
        ('--out', 'docs/model_zoo.md', 'page'),
        ('--index', 'model-index.yml', 'index'),
    ):
        parser.add_argument(option, type=Path, default=Path(default), help=f'the {what} ({default})')
    return parser


def write_model_zoo(options: argparse.Namespace) -> None:
    """Count all models, and replace the page and the index.

    Args:
        options: The options parsed by :func:`model_zoo_parser`.

    Raises:
        UserError: The folder contains no configs, one of them is invalid, or a file cannot be written.
    """
    for option, path in (('--out', options.out), ('--index', options.index)):
        if not path.parent.is_dir():
            raise UserError(f'{option} {path}: there is no folder {path.parent}; create it first')
        check_free(path, overwrite=path.is_file() and _WRITTEN_BY in path.read_bytes()[:200])
    names = config_names(options.configs)
    with progress_bar() as bar:
        models = [Model(options.configs, name) for name in bar.track(names, description='models')]
    for path, text in ((options.out, page(models)), (options.index, index(models))):
        write_atomically(path, lambda part, text=text: part.write_text(text, 'utf-8'), overwrite=True)
        print(f'wrote {path}')


def config_names(configs: Path) -> list[str]:
    """List the configs in the order of their rows on the page.

    Args:
        configs: The folder of configs.

    Returns:
        Their names, without the suffix.

    Raises:
        UserError: The folder contains none.
    """
    stems = {path.stem for path in configs.glob('*.py')}
    # of each kind and arch the plain config first, then its variants
    prefixes = [
        f'{kind}_crossformer_{arch}' for kind in DETECTORS + SEGMENTORS + TOOLBOX_HEADS for arch in ARCHS
    ]
    names = [prefix + variant for prefix in prefixes for variant in VARIANTS]
    names += [f'crossformer_{arch}{CLASSIFIER}{variant}' for variant in ('', *ABLATIONS) for arch in ARCHS]
    names = [name for name in names if name in stems]
    if not names:
        raise UserError(f'{configs}: contains no model configs; give the folder that contains them')
    return names


class Model:
    """The cost of a config's model, and its published figures.

    Args:
        configs: The folder of configs.
        name: The config's name.

    Raises:
        UserError: The config is invalid.
    """

    def __init__(self, configs: Path, name: str) -> None:
        cfg = load_config(configs / f'{name}.py')
        self.name = name
        self.is_detector = cfg.default_scope == 'mmdet'
        self.is_classifier = CLASSIFIER in name
        self.published = PUBLISHED.get(name)
        parts = count(build_model(cfg), *usual_shape(cfg))
        self.counted = self.comparable = parts[-1]
        self.beside = _with_swin(cfg, parts, SWIN_BESIDE[name][0]) if name in SWIN_BESIDE else None
        if self.published and self.published.large_groups:
            cfg.model.backbone.update(GROUPS['large'])
            self.comparable = count(build_model(cfg), *usual_shape(cfg))[-1]

    def row(self) -> str:
        """The line of the page's table."""
        if self.is_classifier:
            return self._classifier_row()
        cells = [f'`{self.name}`', f'{self.counted.parameters / 1e6:.1f}']
        cells += [f'{self.counted.multiply_adds / 1e9:.1f}']
        cells += self._swin_cells() if self.beside else self._published_cells()
        return f'| {" | ".join(cells)} |'

    def _classifier_row(self) -> str:
        parameters, multiply_adds = self.counted.parameters / 1e6, self.counted.multiply_adds / 1e9
        cells = [f'`{self.name}`', f'{parameters:.2f}', f'{multiply_adds:.2f}']
        if published := self.published:
            cells += [
                f'{published.parameters:.1f}',
                f'{published.multiply_adds:.1f}',
                f'{published.score:.1f}',
            ]
            cells[-2] += ' (a misprint)' * published.misprint
        return f'| {" | ".join(cells)} |'

    def _swin_cells(self) -> list[str]:
        """The same model's cost with Swin, and what is published of it."""
        swin, score = SWIN_BESIDE[self.name]
        parameters, multiply_adds = self.beside.parameters / 1e6, self.beside.multiply_adds / 1e9
        return [f'Swin-{swin[-1].upper()}', f'{parameters:.1f}', f'{multiply_adds:.1f}', score]

    def _published_cells(self) -> list[str]:
        """The published figures, and how far the multiply-adds exceed those counted with the same groups."""
        published = self.published
        if published is None:
            return [''] * 5
        figures = (published.parameters, published.multiply_adds, published.score, published.second)
        parameters, multiply_adds, *scores = ['' if figure is None else f'{figure:.1f}' for figure in figures]
        if published.misprint:
            parameters += ' (a misprint)'
        excess = ''
        if published.multiply_adds:
            excess = f'{1e9 * published.multiply_adds / self.comparable.multiply_adds - 1:+.1%}'
            excess += ' *' * published.large_groups
        return [parameters, multiply_adds, excess, *scores]

    def entry(self) -> dict[str, Any]:
        """The index's entry, as plain data."""
        return {
            'Name': self.name,
            'In Collection': 'CrossFormer++' if '_pp_' in self.name else 'CrossFormer',
            'Config': f'configs/{self.name}.py',
            'Metadata': {
                'Training Data': self._training_data(),
                'Parameters': self.counted.parameters,
            },
            **({'Results': self._results(self.published)} if self.published else {}),
            # mim would download a file named like the part after the last slash: here, it is empty.
            'Weights': f'{AUTHORS}/',
        }

    def _training_data(self) -> str:
        if self.is_classifier:
            return 'ImageNet-1K'
        return 'COCO' if self.is_detector else 'ADE20K'

    def _results(self, published: Published) -> list[dict[str, Any]]:
        if self.is_classifier:
            rows = [('Image Classification', 'ImageNet-1K', {'Top 1 Accuracy': published.score})]
        elif self.is_detector:
            rows = [('Object Detection', 'COCO', {'box AP': published.score})]
            rows += [('Instance Segmentation', 'COCO', {'mask AP': published.second})]
        else:
            metrics = {'mIoU': published.score, 'mIoU at six scales': published.second}
            rows = [('Semantic Segmentation', 'ADE20K', metrics)]
        results = []
        for task, dataset, metrics in rows:
            known = {name: figure for name, figure in metrics.items() if figure is not None}
            if known:
                results.append({'Task': task, 'Dataset': dataset, 'Metrics': known})
        return results


def _with_swin(cfg: Config, parts: Sequence[Part], swin: str) -> Part:
    """The cost of a whole model with Swin in place of its backbone; both return maps of the same sizes.

    Args:
        cfg: The model's config.
        parts: The cost of the model, from :func:`~.flops.count`.
        swin: One of the benchmark's ``SWINS``.
    """
    used = {key: value for key, value in cfg.model.backbone.items() if key == 'out_indices'}
    network = build_network(cfg, ConfigDict(type='SwinTransformer', **SWINS[swin], **used))
    network.eval()  # mmdet's Swin returns nothing from this
    other = count(nn.ModuleDict({'backbone': network}), *usual_shape(cfg))[-1]
    own, whole = parts[0], parts[-1]
    return Part(
        'whole model',
        whole.parameters - own.parameters + other.parameters,
        whole.multiply_adds - own.multiply_adds + other.multiply_adds,
    )


def page(models: Sequence[Model]) -> str:
    """The text of ``docs/model_zoo.md``."""
    names = ('detectors', 'segmentors', 'other_detectors', 'other_segmentors', 'classifiers', 'ablations')
    kinds = {name: [] for name in names}
    for model in models:
        detection = 'other_' * bool(model.beside) + ('detectors' if model.is_detector else 'segmentors')
        classification = 'classifiers' if model.published else 'ablations'
        kinds[classification if model.is_classifier else detection].append(model.row())
    return _PAGE.format(**{kind: '\n'.join(rows) for kind, rows in kinds.items()})


def index(models: Sequence[Model]) -> str:
    """The text of ``model-index.yml``."""
    collections = [{'Name': name, 'Paper': url, 'README': AUTHORS} for name, url in PAPERS.items()]
    content = {
        'Collections': collections,
        'Models': [model.entry() for model in models],
    }
    return _INDEX_HEADING + mmengine.dump(content, file_format='yaml', sort_keys=False)


_WRITTEN_BY = b'tools/model_zoo.py'  # in the headings, so that other files are not replaced

_INDEX_HEADING = """\
# Written by tools/model_zoo.py. Parameters are counted here; AP, mIoU and top-1 are published by the authors,
# and have not been reproduced here. Weights is the page that links the weights, which have no direct links.
"""

_PAGE = f"""# Models

Written by `python tools/model_zoo.py`; a test fails when it is out of date.

**Parameters and multiply-adds are counted here**; `crossformer flops CONFIG` lists them by backbone, neck and
heads, at any image size, and says what is counted. **The columns called "published" are the authors'
figures** (from their README), reached from ImageNet weights but for classifiers; none was reproduced here.

The published multiply-adds exceed the counted ones (column "excess") because the authors' code pads maps to
multiples of G or I, and because their figures include small terms such as biases and activations.

## Detection on COCO, one image of {SHAPES['mmdet'][1]}×{SHAPES['mmdet'][0]}

Parameters are in millions, multiply-adds in units of 10⁹ ("FLOPs G" in papers).

| config | parameters | multiply-adds | published: parameters | multiply-adds | excess | box AP | mask AP |
|---|---|---|---|---|---|---|---|
{{detectors}}

\\* The published figure fits large groups, while the config has standard ones: the excess is relative to the
model with large groups.

`t`, `s`, `b` and `l` are CrossFormer, `pp_…` is CrossFormer++. The schedule is 1x (12 epochs), or in
`_3x` configs 36 epochs with multi-scale training. Groups are standard (7 7 7 7, intervals 8 4 2 1) except in
`_g14` (large: 14 14 7 7, intervals 16 8 2 1) and `_pgs` (progressive: 4 4 14 7, intervals 4 2 1 1). Groups of
long distance attention span the whole map, which agrees with the published multiply-adds; those of `_pgs`
span macro-windows (`long_distance='window'`), as in the released ++ classifiers. One checkpoint fits all.

## Segmentation on ADE20K, one image of {SHAPES['mmseg'][1]}×{SHAPES['mmseg'][0]}

`fpn_…` is Semantic FPN, trained for 80k iterations, `upernet_…` is UPerNet, trained for 160k. The columns of
mIoU are at one scale, and at six scales with flipping. Groups are large in Semantic FPN with CrossFormer-S
and -L, as in the authors' configs, and standard in all others. UPerNet's parameters include the auxiliary
head, its multiply-adds do not.

| config | parameters | multiply-adds | published: parameters | multiply-adds | excess | mIoU | six scales |
|---|---|---|---|---|---|---|---|
{{segmentors}}

The misprints: RetinaNet with CrossFormer++-S has the count of CrossFormer-S, and 83.7 should be 83.6
(83.645 M).

## Other heads, beside the same models with Swin

The toolboxes' heads and recipes, with CrossFormer; **none was trained, and there is no published result**.
The next columns are the same model's with the Swin of like size (window 7), counted in the same way, and what
MMDetection, MMSegmentation or, for DINO, detrex publish for it. Groups are standard.

Detection on COCO, one image of {SHAPES['mmdet'][1]}×{SHAPES['mmdet'][0]}:

| config | parameters | multiply-adds | Swin | parameters | multiply-adds | published with Swin |
|---|---|---|---|---|---|---|
{{other_detectors}}

Segmentation on ADE20K, one image of {SHAPES['mmseg'][1]}×{SHAPES['mmseg'][0]}:

| config | parameters | multiply-adds | Swin | parameters | multiply-adds | published with Swin |
|---|---|---|---|---|---|---|
{{other_segmentors}}

\\* With window 12 and weights for 384×384; DINO's are of ImageNet-22K.

## Classification on ImageNet-1K, one image of {SHAPES['mmpretrain'][1]}×{SHAPES['mmpretrain'][0]}

Trained for 300 epochs. Groups are standard for CrossFormer, progressive (layout `window`) for CrossFormer++.

| config | parameters | multiply-adds | published: parameters | multiply-adds | top-1 |
|---|---|---|---|---|---|
{{classifiers}}

The misprints fit none of the papers' groups: standard, large and progressive ones give 4.16 to 4.39 for
`pp_s`, and 21.29 to 21.69 for `pp_h`.

The paper's ablations, each one argument of the backbone, are counted but not trained:

| config | parameters | multiply-adds |
|---|---|---|
{{ablations}}
"""
