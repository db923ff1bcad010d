"""The page and the index of models: up to date, complete, and consistent with the published figures."""

import math
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import mmengine
import pytest
from conftest import CONFIGS, groups_of
from mmengine.config import Config

from crossformer_mm.engine import cli
from crossformer_mm.engine.benchmark import GROUPS
from crossformer_mm.engine.flops import usual_shape
from crossformer_mm.engine.model_zoo import (
    PAPERS,
    PUBLISHED,
    SWIN_BESIDE,
    Model,
    config_names,
    model_zoo_parser,
    write_model_zoo,
)
from crossformer_mm.models.arch import ARCHS

PROJECT = CONFIGS.parent
PAGE = (PROJECT / 'docs' / 'model_zoo.md').read_text(encoding='utf-8')
INDEX = mmengine.load(PROJECT / 'model-index.yml')
ENTRIES = {entry['Name']: entry for entry in INDEX['Models']}
ROWS = {line.split('`')[1]: line for line in reversed(PAGE.splitlines()) if line.startswith('| `')}


def cells(name: str) -> list[str]:
    """The figures in a config's row of the page."""
    return [cell.strip() for cell in ROWS[name].split('|')[2:-1]]


def test_every_config_has_a_row_and_an_entry() -> None:
    demos = {path.stem for path in CONFIGS.glob('demo*.py')}
    models = {path.stem for path in CONFIGS.glob('*.py')}
    assert set(ROWS) == set(config_names(CONFIGS)) == models - demos
    assert set(ROWS) >= set(PUBLISHED)
    assert list(ENTRIES) == config_names(CONFIGS)
    assert all((PROJECT / entry['Config']).is_file() for entry in ENTRIES.values())
    collections = [collection['Name'] for collection in INDEX['Collections']]
    assert collections == [*PAPERS]
    assert {entry['In Collection'] for entry in ENTRIES.values()} == set(collections)


@pytest.mark.parametrize(
    'name',
    [
        'mask_rcnn_crossformer_s_g14',
        pytest.param('upernet_crossformer_s', marks=pytest.mark.slow),
        'crossformer_pp_s_in1k',
        pytest.param('segformer_crossformer_s', marks=pytest.mark.slow),
    ],
)
def test_rows_and_entries_are_up_to_date(name: str) -> None:
    model = Model(CONFIGS, name)
    assert model.row() == ROWS[name]
    assert model.entry() == ENTRIES[name]


@pytest.mark.slow
def test_both_files_are_up_to_date(tmp_path: Path) -> None:
    words = ['--configs', str(CONFIGS), '--out', str(tmp_path / 'p.md'), '--index', str(tmp_path / 'i.yml')]
    assert cli.run(model_zoo_parser(), write_model_zoo, words) == 0
    assert (tmp_path / 'p.md').read_text('utf-8') == PAGE
    assert (tmp_path / 'i.yml').read_text('utf-8') == (PROJECT / 'model-index.yml').read_text('utf-8')


@pytest.mark.parametrize('name', ENTRIES)
def test_entries_agree_with_the_page(name: str) -> None:
    parameters, _, *published = cells(name)
    digits = len(parameters.partition('.')[2])
    assert f'{ENTRIES[name]["Metadata"]["Parameters"] / 1e6:.{digits}f}' == parameters
    results = ENTRIES[name].get('Results', [])
    figures = [f'{figure:.1f}' for result in results for figure in result['Metrics'].values()]
    scores = published[2:] if '_in1k' in name else published[3:]
    scores = [] if name in SWIN_BESIDE else scores
    assert figures == [figure for figure in scores if figure]
    assert bool(results) == (name in PUBLISHED)


@pytest.mark.parametrize('name', PUBLISHED)
def test_parameters_agree_to_the_printed_digit(name: str) -> None:
    here, counted, published, multiply_adds, *_ = cells(name)
    if '_in1k' in name:
        assert f'{float(here):.1f}' == published
        assert (f'{float(counted):.1f}' == multiply_adds) != PUBLISHED[name].misprint
    elif PUBLISHED[name].misprint:
        assert (here, published) in [('33.0', '40.8 (a misprint)'), ('83.6', '83.7 (a misprint)')]
    else:
        assert here == published


@pytest.mark.parametrize('name', SWIN_BESIDE)
def test_models_with_swin_have_its_size_and_the_published_scores(name: str) -> None:
    """Heads are equal, so that only the backbones differ; the config's heading has the same scores."""
    ours, _, swin, theirs, _, score = cells(name)
    backbones = {'Swin-T': (29.887, 27.520), 'Swin-S': (51.201, 48.837), 'Swin-B': (90.944, 86.743)}
    crossformer, other = backbones[swin]
    assert float(ours) - float(theirs) == pytest.approx(crossformer - other, abs=0.11)
    heading = ' '.join((CONFIGS / f'{name}.py').read_text().partition('crossformer train')[0].split())
    if score:
        assert f'{swin}: {score.removesuffix(" *")}' in heading
    else:
        assert not re.search(rf'{swin}: (box AP|mask AP|mIoU)', heading)


def pairs(sides: list[int], span: float, interval: int) -> int:
    """Pairs of tokens in the same group, on a map with these sides."""
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


@pytest.mark.parametrize(
    'name', [name for name, row in PUBLISHED.items() if row.multiply_adds and '_in1k' not in name]
)
def test_excess_of_published_multiply_adds_is_padding(name: str, config: Callable[[str], Config]) -> None:
    """Except for small terms of 0.1 to 0.5; the page rounds to 0.1, or 0.1 %."""
    cfg, published = config(name), PUBLISHED[name]
    group_sizes, intervals, layout = groups_of(cfg)
    _, counted, _, printed, excess, *_ = cells(name)
    assert (layout, float(printed)) == ('map', published.multiply_adds)
    assert excess.endswith('% *') == published.large_groups
    if published.large_groups:
        group_sizes, intervals = GROUPS['large'].values()
        counted = published.multiply_adds / (1 + float(excess.removesuffix('% *')) / 100)
    small = published.multiply_adds - float(counted) - padding(cfg, group_sizes, intervals)
    assert -0.1 < small < 0.7
