"""``model-index.yml``: up to date, and in agreement with the configs and with what was published."""

import mmengine
import pytest
from conftest import CONFIGS
from test_model_zoo import cells

from crossformer_mm.engine.model_index import PAPERS, entry, index
from crossformer_mm.engine.model_zoo import PUBLISHED, config_names

FILE = CONFIGS.parent / 'model-index.yml'
INDEX = mmengine.load(FILE)
MODELS = {model['Name']: model for model in INDEX['Models']}


def test_every_config_has_an_entry() -> None:
    assert list(MODELS) == config_names(CONFIGS)
    assert all((CONFIGS.parent / model['Config']).is_file() for model in MODELS.values())
    assert {model['In Collection'] for model in MODELS.values()} == {*PAPERS}
    assert [collection['Name'] for collection in INDEX['Collections']] == [*PAPERS]


@pytest.mark.parametrize('name', MODELS)
def test_entries_agree_with_the_page_of_models(name: str) -> None:
    parameters, *_, score, second = cells(name)
    assert f'{MODELS[name]["Metadata"]["Parameters"] / 1e6:.1f}' == parameters
    results = MODELS[name].get('Results', [])
    figures = [f'{figure:.1f}' for result in results for figure in result['Metrics'].values()]
    assert figures == [figure for figure in (score, second) if figure]
    assert bool(results) == (name in PUBLISHED)


@pytest.mark.parametrize('name', ['retinanet_crossformer_pp_s', 'upernet_crossformer_b'])
def test_entries_are_up_to_date(name: str) -> None:
    assert entry(CONFIGS, name) == MODELS[name]


@pytest.mark.slow
def test_index_is_up_to_date() -> None:
    assert index(CONFIGS) == FILE.read_text(encoding='utf-8')
