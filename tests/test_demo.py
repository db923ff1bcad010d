"""The demo end to end, as small as it gets: one epoch of four images, through the real tools."""

from pathlib import Path

import cv2
import pytest

from crossformer_mm.demo import FULL, SHORT, Recipe, read_scores, run_demo
from crossformer_mm.errors import UserError

PROJECT = Path(__file__).parents[1]


@pytest.fixture(scope='module')
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A demo folder with something old in it, and what the demo said at the end."""
    folder = tmp_path_factory.mktemp('demo')
    (folder / 'old.txt').write_text('of a run before')
    with pytest.raises(UserError) as error:
        run_demo(Recipe(images=4, epochs=1, val_images=2, least=1.01), PROJECT, folder)
    return folder, str(error.value)


def test_missed_scores_are_an_error(demo: tuple[Path, str]) -> None:
    folder, message = demo
    assert message.startswith(f'box mAP and mask mAP below 1.01; {folder}')


def test_scores_are_those_of_the_evaluation(demo: tuple[Path, str]) -> None:
    folder, _ = demo
    scores = read_scores(folder / 'test')
    assert set(scores) == {'box mAP', 'mask mAP'}
    assert all(0 <= score <= 1 for score in scores.values())


def test_all_that_is_promised_is_there(demo: tuple[Path, str]) -> None:
    folder, _ = demo
    assert (folder / 'epoch_1.pth').is_file()
    assert len(list(folder.glob('*/*.log'))) == len(list(folder.glob('test/*/*.log'))) == 1
    pictures = [folder / 'curves.png', folder / 'predictions.png']
    pictures += [folder / 'predictions' / f'{i:012}.png' for i in (1, 2)]
    assert all(cv2.imread(str(picture)) is not None for picture in pictures)


def test_a_run_begins_with_an_empty_folder(demo: tuple[Path, str]) -> None:
    folder, _ = demo
    assert not (folder / 'old.txt').exists()


def test_a_tool_that_fails_is_named(tmp_path: Path) -> None:
    (tmp_path / 'tools').mkdir()
    (tmp_path / 'tools' / 'train.py').write_text('raise SystemExit(3)')
    recipe = Recipe(images=1, epochs=1, val_images=1, least=0)
    with pytest.raises(UserError, match=r'tools/train.py ended with status 3'):
        run_demo(recipe, tmp_path, tmp_path / 'demo')


def test_the_demo_asks_for_what_it_promises() -> None:
    assert FULL.least == 0.70
    assert SHORT.least >= 0.05, 'far more than an untrained network reaches'
    assert SHORT.images * SHORT.epochs < FULL.images * FULL.epochs / 2
