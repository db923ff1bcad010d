"""``crossformer check`` on class folders: every kind of problem at once, the table and the pictures."""

import shutil
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from mmengine.config import Config
from PIL import Image

from crossformer_mm.data.images import repeated_images
from crossformer_mm.data.shapes import write_class_folders
from crossformer_mm.engine import cli
from crossformer_mm.engine.check import check_dataset, check_parser
from crossformer_mm.utils.files import files_in


@pytest.fixture(scope='module')
def config_file(config: Callable[[str], Config], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier's config as a single file without base configs, which is quicker to read."""
    path = tmp_path_factory.mktemp('config') / 'crossformer_s_in1k.py'
    config(path.stem).dump(path)
    return path


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Class folders of circles, rectangles and triangles: 14 images to train with, 3 to validate."""
    write_class_folders(tmp_path / 'data', train=14, val=3, size=32)
    return tmp_path / 'data'


@pytest.fixture
def check(config_file: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    """``tools/check_dataset.py`` in this process: its exit status, and output or message."""

    def call(root: Path, *words: object) -> tuple[int, str]:
        known = [config_file, '--data-root', root]
        status = cli.run(check_parser(), check_dataset, list(map(str, [*known, *words])))
        said = capsys.readouterr()
        return status, said.out or said.err

    return call


def lines_of(said: str) -> list[str]:
    """The kinds of problems with their counts."""
    return sorted(line for line in said.splitlines() if line.startswith(('error:', 'warning:')))


def test_valid_data(root: Path, check: Callable[..., tuple[int, str]], tmp_path: Path) -> None:
    status, said = check(root, '--out', tmp_path / 'out')
    assert status == 0
    assert [line.split() for line in said.splitlines() if line.startswith(' ')] == [
        ['train', 'val'],
        ['5', '1', 'circle'],
        ['5', '1', 'rectangle'],
        ['4', '1', 'triangle'],
        ['14', '3', 'all', '3', 'classes'],
    ]
    assert lines_of(said) == []
    assert said.endswith('no errors\n')
    names = sorted(f'{s}_{n}.png' for s in ('train', 'val') for n in ('classes', 'samples'))
    assert [path.name for path in files_in(tmp_path / 'out')] == names
    wide, narrow = (cv2.imread(str(tmp_path / 'out' / f'{s}_samples.png')).shape for s in ('train', 'val'))
    assert wide[0] > 1.9 * narrow[0], 'twelve images in two rows, three in one'
    assert wide[1] > 1.9 * narrow[1]
    assert f'{root}/val' not in check(root, '--no-val')[1]


def test_all_problems_are_listed_at_once(root: Path, check: Callable[..., tuple[int, str]]) -> None:
    train, val = root / 'train', root / 'val'
    circles = sorted((train / 'circle').iterdir())
    circles[0].write_bytes(circles[0].read_bytes()[:200])
    (val / 'circle' / 'text.jpg').write_text('no image')
    shutil.copy(circles[1], val / 'circle' / 'again.jpg')
    shutil.copy(circles[2], train / 'triangle' / 'again.jpg')
    shutil.copy(circles[3], train / 'circle' / 'again.jpg')
    circles[4].rename(train / 'alone.jpg')
    (train / 'circle' / 'a.gif').touch()
    (train / 'empty').mkdir()
    for i in range(51):
        image = np.random.default_rng(i).integers(0, 255, (9, 9, 3), np.uint8)
        cv2.imwrite(str(train / 'rectangle' / f'{i}.png'), image)
    cv2.imwrite(str(train / 'circle' / 'thin.png'), np.full((2, 2002, 3), 99, np.uint8))
    (val / 'rectangle').rename(val / 'square')
    status, said = check(root)
    assert status == 1
    assert lines_of(said) == [
        'error: class folders without images: 1',
        'error: classes of one split only: 1',
        'error: images outside class folders: 1',
        'error: images that cannot be read: 1',
        'error: images that cannot be read: 1',
        'warning: files that are not read: 1',
        'warning: images in two classes: 1',
        'warning: images that are in the training set too: 1',
        'warning: images that are too thin: 1',
    ]
    assert f'{train}/triangle/again.jpg is the same as {circles[2]}' in said
    assert 'square, and no folders for these classes of' in said
    assert f'{"-":>11}{"1":>11}  square' in said
    assert said.endswith('\n5 errors\n')
    (train / 'empty').rmdir()
    assert 'warning: unbalanced classes: 1' in lines_of(check(root)[1])


def test_a_sample_of_the_images(root: Path, check: Callable[..., tuple[int, str]], tmp_path: Path) -> None:
    for path in files_in(root / 'train'):
        path.write_bytes(path.read_bytes()[:200])
    status, said = check(root, '--sample', 5, '--out', tmp_path / 'out')
    assert status == 1
    assert lines_of(said) == ['error: images that cannot be read: 5']
    assert not (tmp_path / 'out' / 'train_samples.png').exists()
    assert (tmp_path / 'out' / 'train_classes.png').exists()
    assert (tmp_path / 'out' / 'val_samples.png').exists()


def test_another_layout(root: Path, check: Callable[..., tuple[int, str]]) -> None:
    (root / 'val').rename(root / 'validation')
    status, said = check(root)
    assert status == 1
    assert f'{root} contains train/, validation/: give --val-images validation' in said
    assert check(root, '--val-images', 'validation')[0] == 0


def test_images_turned_by_exif(root: Path, check: Callable[..., tuple[int, str]]) -> None:
    path = root / 'train' / 'circle' / '00000001.jpg'
    with Image.open(path) as image:
        exif = image.getexif()
        exif[0x0112] = 6
        image.save(path, exif=exif)
    assert lines_of(check(root)[1]) == ['warning: images turned by EXIF: 1']
    assert lines_of(check(root, '--ignore-exif')[1]) == []


def test_repeated_images(tmp_path: Path) -> None:
    paths = [tmp_path / str(i) for i in range(5)]
    for path, content in zip(paths, ('a', 'bb', 'a', 'cc', 'a'), strict=True):
        path.write_text(content)
    assert list(repeated_images(paths)) == [(paths[0], paths[2]), (paths[0], paths[4])]
