"""The demo end to end, with the real tools, for one epoch of four images."""

from pathlib import Path

import cv2
import pytest

from crossformer_mm.engine import demo as demos
from crossformer_mm.engine.demo import DEMOS, Recipe, read_scores, run_demo
from crossformer_mm.utils.errors import UserError

TINY = {  # what is in a tiny run of each demo, which reaches nothing
    'mask_rcnn': ('epoch_1.pth', ['box mAP', 'mask mAP'], 1, '{:012}.png'),
    'semantic_fpn': ('iter_2.pth', ['mIoU'], 2, '{:08}.png'),
    'classifier': ('epoch_1.pth', ['top-1'], 1, 'pictures/{:08}.png'),
}


@pytest.fixture(scope='module', params=[pytest.param(name, marks=pytest.mark.slow) for name in DEMOS])
def demo(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path, str]:
    """A demo's name, its folder, which contained an old file, and the final output."""
    folder = tmp_path_factory.mktemp('demo')
    (folder / 'old.txt').write_text('of a run before')
    (folder / '.demo').touch()
    recipe = Recipe(images=4, length=TINY[request.param][2], val_images=3, least=1.01)
    with pytest.raises(UserError) as error:
        run_demo(DEMOS[request.param], recipe, folder)
    return request.param, folder, str(error.value)


def test_all_that_is_promised_is_there(demo: tuple[str, Path, str]) -> None:
    name, folder, message = demo
    checkpoint, scores, _, picture = TINY[name]
    assert message.startswith(f'{" and ".join(scores)} below 1.01; '), 'missed scores are an error'
    found = read_scores(DEMOS[name], folder / 'test')
    assert list(found) == scores
    assert all(0 <= score <= 1 for score in found.values())
    assert (folder / checkpoint).is_file()
    assert not (folder / 'old.txt').exists()
    assert len(list(folder.glob('*/*.log'))) == len(list(folder.glob('test/*/*.log'))) == 1
    pictures = [folder / 'curves.png', folder / 'predictions.png']
    pictures += [folder / 'predictions' / picture.format(i) for i in (1, 2, 3)]
    plots = list((folder / 'test' / 'plots').rglob('*.png'))
    assert plots
    assert all(cv2.imread(str(picture)) is not None for picture in pictures + plots)


def test_a_command_that_fails_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / 'crossformer_mm_command.py').write_text('raise SystemExit(3)')
    monkeypatch.setattr(demos, 'PROJECT', tmp_path)
    recipe = Recipe(images=1, length=1, val_images=1, least=0)
    with pytest.raises(UserError, match='crossformer train ended with status 3'):
        run_demo(DEMOS['mask_rcnn'], recipe, tmp_path / 'demo')


def test_a_folder_that_is_not_of_a_demo_is_not_emptied(tmp_path: Path) -> None:
    (tmp_path / 'mine.txt').touch()
    with pytest.raises(UserError, match='is not the folder of an earlier demo; move it'):
        run_demo(DEMOS['mask_rcnn'], Recipe(images=1, length=1, val_images=1, least=0), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ['mine.txt']


@pytest.mark.parametrize('name', DEMOS)
def test_the_demo_asks_for_what_it_promises(name: str) -> None:
    full, short = DEMOS[name].full, DEMOS[name].short
    assert full.least == {'mask_rcnn': 0.70, 'semantic_fpn': 0.80, 'classifier': 0.90}[name]
    untrained = {'mask_rcnn': 0.0, 'semantic_fpn': 0.22, 'classifier': 0.34}[name]  # always one class
    assert short.least > untrained
    assert short.length < full.length
