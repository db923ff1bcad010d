"""The page of models: up to date, complete, and in agreement with what was published."""

import math
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import CONFIGS, groups_of
from mmengine.config import Config

from crossformer_mm.engine.flops import usual_shape
from crossformer_mm.engine.model_zoo import LARGE_GROUPS, PUBLISHED, config_names, page, row
from crossformer_mm.models.arch import ARCHS
from crossformer_mm.utils.errors import UserError

PAGE = (CONFIGS.parent / 'docs' / 'model_zoo.md').read_text(encoding='utf-8')
ROWS = {line.split('`')[1]: line for line in reversed(PAGE.splitlines()) if line.startswith('| `')}


def cells(name: str) -> list[str]:
    """Of a config's line in the first table, its figures."""
    return [cell.strip() for cell in ROWS[name].split('|')[2:-1]]


def test_every_config_has_a_line() -> None:
    demos = {path.stem for path in CONFIGS.glob('demo*.py')}
    models = {path.stem for path in CONFIGS.glob('*.py')}
    assert set(ROWS) == set(config_names(CONFIGS)) == models - demos
    assert set(ROWS) >= set(PUBLISHED)


@pytest.mark.parametrize(
    'name',
    [
        'retinanet_crossformer_pp_s',
        'mask_rcnn_crossformer_s_g14',
        'fpn_crossformer_pp_s',
        'upernet_crossformer_s',
    ],
)
def test_lines_are_up_to_date(name: str) -> None:
    assert row(CONFIGS, name) == ROWS[name]


@pytest.mark.slow
def test_page_is_up_to_date() -> None:
    assert page(CONFIGS) == PAGE


@pytest.mark.parametrize('name', PUBLISHED)
def test_parameters_agree_to_the_printed_digit(name: str) -> None:
    here, _, published, *_ = cells(name)
    if PUBLISHED[name].misprint:
        assert (here, published) in [('33.0', '40.8 (a misprint)'), ('83.6', '83.7 (a misprint)')]
    else:
        assert here == published


def pairs(sides: list[int], span: float, interval: int) -> int:
    """Pairs of tokens in one group, on a map of these sides."""
    axes = [Counter((i // span, i % interval) for i in range(side)).values() for side in sides]
    return math.prod(sum(tokens**2 for tokens in axis) for axis in axes)


def padding(cfg: Config, group_sizes: list[int], intervals: list[int]) -> float:
    """What padding adds to a backbone's multiply-adds, in units of 10⁹: qkv, proj and attention run on it."""
    arch, added = ARCHS[cfg.model.backbone.arch], 0
    for s, (G, I) in enumerate(zip(group_sizes, intervals, strict=True)):
        sides = [side // (4 * 2**s) for side in usual_shape(cfg)]
        for block in range(arch.depths[s]):
            multiple, *groups = (I, math.inf, I) if block % 2 else (G, G, 1)
            padded = [-(-side // multiple) * multiple for side in sides]
            C = arch.dims(s)
            added += 4 * C * C * (math.prod(padded) - math.prod(sides))
            added += 2 * C * (pairs(padded, *groups) - pairs(sides, *groups))
    return added / 1e9


@pytest.mark.parametrize('name', [name for name in PUBLISHED if PUBLISHED[name].multiply_adds])
def test_excess_of_published_multiply_adds_is_padding(name: str, config: Callable[[str], Config]) -> None:
    """And the small terms, which are 0.1 to 0.5; the page rounds to 0.1, or 0.1 %."""
    cfg, published = config(name), PUBLISHED[name]
    group_sizes, intervals, layout = groups_of(cfg)
    _, counted, _, printed, excess, *_ = cells(name)
    assert (layout, float(printed)) == ('map', published.multiply_adds)
    assert excess.endswith('% *') == published.large_groups
    if published.large_groups:
        group_sizes, intervals = LARGE_GROUPS.values()
        counted = published.multiply_adds / (1 + float(excess.removesuffix('% *')) / 100)
    small = published.multiply_adds - float(counted) - padding(cfg, group_sizes, intervals)
    assert -0.1 < small < 0.7


def test_a_folder_without_configs_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f'{tmp_path}: no configs of models there'):
        page(tmp_path)
