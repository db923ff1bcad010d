"""The page of models: up to date, complete, and in agreement with what was published."""

from pathlib import Path

import pytest
from conftest import CONFIGS

from crossformer_mm.errors import UserError
from crossformer_mm.model_zoo import PUBLISHED, config_names, explained_row, page, row

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
    ['retinanet_crossformer_pp_s', 'mask_rcnn_crossformer_s_g14', 'upernet_crossformer_pp_b'],
)
def test_lines_are_up_to_date(name: str) -> None:
    assert row(CONFIGS, name) == ROWS[name]


@pytest.mark.parametrize('name', ['cascade_mask_rcnn_crossformer_s_3x', 'upernet_crossformer_s'])
def test_explanations_are_up_to_date(name: str) -> None:
    assert explained_row(CONFIGS, name) in PAGE.splitlines()


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


def test_multiply_adds_are_explained() -> None:
    """The columns of each published figure sum up, and come within 0.06 of it."""
    tail = PAGE.partition('## Where the published multiply-adds come from')[2]
    lines = [line.split('|')[1:-1] for line in tail.splitlines() if line.startswith('| `')]
    assert len(lines) == sum(published.multiply_adds is not None for published in PUBLISHED.values())
    for name, groups, *figures in lines:
        *terms, total, published, difference = map(float, figures)
        known = PUBLISHED[name.strip(' `')]
        assert (groups.strip(), published) == (known.groups, known.multiply_adds)
        assert sum(terms) == pytest.approx(total, abs=0.03)  # each is rounded
        assert total - published == pytest.approx(difference, abs=0.02)
        assert abs(difference) <= 0.06


def test_a_folder_without_configs_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f'{tmp_path}: no configs of models there'):
        page(tmp_path)
