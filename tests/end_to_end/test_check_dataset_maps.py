"""``crossformer check`` on label maps: every kind of problem at once, the tables and the pictures."""

import shutil
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from mmengine.config import Config

from crossformer_mm.data.datasets import palette
from crossformer_mm.data.label_check import LabelRule, inspect_labels
from crossformer_mm.data.label_folders import LabelFolder
from crossformer_mm.data.shapes import write_ade20k
from crossformer_mm.engine import cli
from crossformer_mm.engine.check import check_dataset, check_parser, draw_labels
from crossformer_mm.evaluation.segmentation_pictures import TINT
from crossformer_mm.utils.files import files_in

CLASSES = ('ground', 'circle', 'rectangle', 'triangle')
IMAGES, MAPS = 'images/training', 'annotations/training'


@pytest.fixture(scope='module')
def config_file(config: Callable[[str], Config], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A segmentor's config as a single file without base configs, which is quicker to read."""
    path = tmp_path_factory.mktemp('config') / 'fpn_crossformer_s.py'
    config(path.stem).dump(path)
    return path


@pytest.fixture(scope='module')
def sound_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in ADE20K's layout: 14 training and 3 validation images, four classes from 1."""
    root = tmp_path_factory.mktemp('maps')
    write_ade20k(root, train=14, val=3, size=64)
    return root


@pytest.fixture
def root(sound_root: Path, tmp_path: Path) -> Path:
    """A copy of the data that a test may damage."""
    return Path(shutil.copytree(sound_root, tmp_path / 'own'))


@pytest.fixture
def check(config_file: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    """``tools/check_dataset.py`` in this process: its exit status and output."""

    def call(root: Path, *words: object, zero: str = '--reduce-zero-label') -> tuple[int, str]:
        known = [config_file, '--data-root', root, '--classes', root / 'classes.txt', zero]
        status = cli.run(check_parser(), check_dataset, list(map(str, [*known, *words])))
        return status, capsys.readouterr().out

    return call


def lines_of(said: str) -> list[str]:
    """The kinds of problems with their counts."""
    return [line for line in said.splitlines() if line.startswith(('error:', 'warning:'))]


def change_maps(folder: Path, change: Callable[[np.ndarray], np.ndarray]) -> None:
    for path in folder.glob('*/*.png'):
        cv2.imwrite(str(path), change(cv2.imread(str(path), cv2.IMREAD_UNCHANGED)))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-200])


def test_valid_data(sound_root: Path, check: Callable[..., tuple[int, str]], tmp_path: Path) -> None:
    status, said = check(sound_root, '--out', tmp_path / 'out')
    assert status == 0
    assert '14 label maps, read; 0 is ignored (reduce_zero_label)' in said
    rows = [line.split() for line in said.splitlines() if line.endswith(('ground', 'ignored'))]
    assert [(value, maps) for value, _, maps, _ in rows] == [('0', '14'), ('1', '14'), ('0', '3'), ('1', '3')]
    assert lines_of(said) == []
    assert said.endswith('no errors\n')
    names = sorted(f'{s}_{n}.png' for s in ('train', 'val') for n in ('classes', 'samples'))
    assert [path.name for path in files_in(tmp_path / 'out')] == names
    wide, narrow = (cv2.imread(str(tmp_path / 'out' / f'{s}_samples.png')).shape for s in ('train', 'val'))
    assert wide[0] > 2 * narrow[0], 'twelve images in three rows, three in one'


def test_all_problems_are_listed_at_once(root: Path, check: Callable[..., tuple[int, str]]) -> None:
    images = [root / IMAGES / f'{i:08}.jpg' for i in range(15)]
    maps = [root / MAPS / f'{i:08}.png' for i in range(15)]
    maps[1].unlink()
    images[2].unlink()
    cut(maps[3])
    cv2.imwrite(str(maps[4]), np.ones((9, 9, 3), np.uint8))
    cut(images[5])
    images[6].write_bytes(b'no image')
    cv2.imwrite(str(images[7]), np.ones((9, 9, 3), np.uint8))
    for i in (8, 9):
        values = cv2.imread(str(maps[i]), cv2.IMREAD_UNCHANGED)
        values[0, i] = 77
        cv2.imwrite(str(maps[i]), values)
    shutil.copy(images[10], images[10].with_suffix('.jpeg'))
    shutil.copy(images[11], root / 'images' / 'validation' / '00000001.jpg')
    shutil.copy(maps[11], root / 'annotations' / 'validation' / '00000001.png')
    status, said = check(root)
    assert status == 1
    assert sorted(lines_of(said)) == [
        'error: images that cannot be read: 2',
        'error: images that share a label map: 1',
        'error: images without a label map: 1',
        'error: label maps of another size: 1',
        'error: label maps that cannot be used: 2',
        'error: label maps with values outside the classes: 2',
        'error: label maps without an image: 1',
        'warning: images that are in the training set too: 1',
    ]
    assert '00000005.jpg cannot be read as an image' in said
    assert '00000004.png is not a label map but a colour image' in said
    assert said.count('--ignore-label N ignores another value') == 1, 'once for all of a kind'
    assert said.endswith('\n10 errors\n')


def test_zero_is_a_class_after_all(root: Path, check: Callable[..., tuple[int, str]]) -> None:
    """The classes start from 0 in the files, contrary to the option."""
    change_maps(root / 'annotations', lambda values: np.maximum(values, 1) - 1)
    status, said = check(root)
    assert status == 0
    assert lines_of(said) == 2 * [
        'warning: classes that never occur: 1',
        'warning: reduce_zero_label may be wrong: 1',
    ]
    assert '1 of 4 classes never occur: triangle' in said


def test_a_sample_of_the_images(root: Path, check: Callable[..., tuple[int, str]], tmp_path: Path) -> None:
    """Truncated images are found if they are decoded, and are not drawn."""
    for path in (root / IMAGES).iterdir():
        cut(path)
    status, said = check(root, '--sample', 5, '--out', tmp_path / 'out')
    assert status == 1
    assert lines_of(said) == ['error: images that cannot be read: 5']
    again = check(root, '--sample', 5, '--show', 20)[1]
    assert again == check(root, '--sample', 5, '--show', 20)[1]
    assert again != check(root, '--sample', 5, '--show', 20, '--seed', 1)[1]
    assert not (tmp_path / 'out' / 'train_samples.png').exists()
    assert (tmp_path / 'out' / 'val_samples.png').exists()


def test_an_empty_folder_does_not_hide_the_others(root: Path, check: Callable[..., tuple[int, str]]) -> None:
    for path in (root / IMAGES).iterdir():
        path.unlink()
    cut(root / 'images' / 'validation' / '00000001.jpg')
    status, said = check(root)
    assert status == 1
    assert lines_of(said) == ['error: image folder: 1', 'error: images that cannot be read: 1']


def test_samples_have_the_colours_of_their_classes(tmp_path: Path) -> None:
    """Left to right: the first class, the second, ignored pixels, and pixels outside the classes."""
    values = np.repeat(np.uint8([[0, 1, 255, 9]]), 40, axis=1).repeat(160, axis=0)
    cv2.imwrite(str(tmp_path / 'map.png'), values)
    cv2.imwrite(str(tmp_path / 'image.png'), np.full((160, 160, 3), 200, np.uint8))
    rule, colours = LabelRule(('a', '$b_$', 'c')), palette(3)
    pairs = [(tmp_path / 'image.png', tmp_path / 'map.png')]
    folder = LabelFolder(tmp_path, pairs, rule, colours, '.png')
    draw_labels(tmp_path, 'page', folder, inspect_labels(pairs, tmp_path, rule), pairs, seed=0)
    page = cv2.imread(str(tmp_path / 'page_samples.png'))[..., ::-1]
    height, width = page.shape[0], 390  # the panel: 2.6 inches of 150 dots
    drawn = [page[height // 2, width * (2 * i + 1) // 8] for i in range(4)]
    expected = [
        [200 * (1 - TINT) + TINT * channel for channel in c] for c in (*colours[:2], (0,) * 3, (0,) * 3)
    ]
    assert np.abs(np.array(drawn) - expected).max() < 3
