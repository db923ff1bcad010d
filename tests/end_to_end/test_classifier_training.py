"""Training a classifier on class folders, resuming it, and testing it on splits of other classes."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from small_runs import assert_same_state

from crossformer_mm.data.shapes import CLASSES, write_class_folders
from crossformer_mm.engine import cli
from crossformer_mm.engine import test as test_command
from crossformer_mm.engine import train as train_command

EPOCHS = 2


@pytest.fixture(scope='module')
def narrow(narrow_classifier: Callable[[str], Config], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A narrow classifier for a few steps, as a file."""
    cfg = narrow_classifier('crossformer_s_in1k')
    cfg.train_cfg.max_epochs = EPOCHS
    cfg.randomness = dict(seed=0)
    path = tmp_path_factory.mktemp('config') / 'narrow.py'
    cfg.dump(path)
    return path


@pytest.fixture(scope='module')
def sound_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Class folders of circles, rectangles and triangles: 9 images to train with, 6 to validate."""
    root = tmp_path_factory.mktemp('folders')
    write_class_folders(root, train=9, val=6, size=32)
    return root


@pytest.fixture(scope='module')
def trained(narrow: Path, sound_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The work folder of a training."""
    work_dir = tmp_path_factory.mktemp('trained')
    assert train(narrow, '--data-root', sound_root, '--work-dir', work_dir) == 0
    return work_dir


@pytest.fixture
def root(sound_root: Path, tmp_path: Path) -> Path:
    """A copy of the data that a test may damage."""
    return Path(shutil.copytree(sound_root, tmp_path / 'own'))


def train(*words: object) -> int:
    return cli.run(train_command.training_parser(), train_command.train, list(map(str, words)))


def evaluate(*words: object) -> dict[str, float]:
    return test_command.evaluate(test_command.evaluation_parser().parse_args(list(map(str, words))))


def fails_to_evaluate(*words: object) -> bool:
    run = lambda options: test_command.evaluate(options) and None  # noqa: E731
    return cli.run(test_command.evaluation_parser(), run, list(map(str, words))) == 1


def log_of(work_dir: Path) -> str:
    """The log of the latest run there."""
    return max(work_dir.glob('*/*.log')).read_text()


def test_training_says_what_it_learns(trained: Path, sound_root: Path) -> None:
    log = log_of(trained)
    assert log.count('3 classes: circle, rectangle, triangle') == 1
    assert f'{sound_root}/train: 9 images of 3 classes' in log
    assert f'{sound_root}/val: 6 images of 3 classes' in log
    assert 'no pretrained weights' not in log, 'classifiers are where pretrained weights come from'
    assert re.search(r'Epoch\(val\) \[2\]\[2/2\] .*accuracy/top1: ', log)
    assert (trained / 'curves.png').is_file()
    assert len(list(trained.glob('best_accuracy_top1_epoch_*.pth'))) == 1
    checkpoint = torch.load(trained / 'epoch_2.pth', weights_only=False)
    assert tuple(checkpoint['meta']['dataset_meta']['classes']) == CLASSES
    assert checkpoint['state_dict']['head.fc.weight'].shape == (3, 256)


@pytest.mark.slow
def test_a_split_without_some_classes_has_the_same_labels(
    trained: Path, narrow: Path, root: Path, tmp_path: Path
) -> None:
    """Otherwise, the classes after a missing one would be compared with the predictions of others."""
    words = [trained / 'epoch_2.pth', '--data-root', root, '--work-dir', tmp_path / 'work']
    scores = evaluate(narrow, *words)
    shutil.rmtree(root / 'val' / 'circle')
    for config in (narrow, trained / 'narrow.py'):
        fewer = evaluate(config, *words)
        for name in ('rectangle', 'triangle'):
            assert recall(fewer, name) == recall(scores, name)
        assert 'val has no folders for these classes of' in log_of(tmp_path / 'work')
    assert sum(recall(scores, name) for name in CLASSES) > 0, 'something is classified correctly'


def recall(scores: dict[str, float], name: str) -> float:
    return next(value for key, value in scores.items() if key.endswith(f'recall/{name}'))


def test_a_split_of_other_classes(
    trained: Path, narrow: Path, root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (root / 'val' / 'circle').rename(root / 'val' / 'disc')
    words = [trained / 'epoch_2.pth', '--data-root', root, '--work-dir', tmp_path / 'work']
    assert fails_to_evaluate(narrow, *words)
    assert 'val has folders that are no classes of the checkpoint: disc, and' in capsys.readouterr().err
    assert not (tmp_path / 'work').exists()


def test_a_config_of_another_training(trained: Path, sound_root: Path, tmp_path: Path, capsys) -> None:
    """It selects the classes of that training."""
    cfg = Config.fromfile(trained / 'narrow.py')
    cfg.test_dataloader.dataset.metainfo.classes = CLASSES[::-1]
    cfg.train_dataloader = cfg.val_dataloader = None
    cfg.dump(tmp_path / 'other.py')
    words = [trained / 'epoch_2.pth', '--data-root', sound_root, '--work-dir', tmp_path / 'work']
    assert fails_to_evaluate(tmp_path / 'other.py', *words)
    error = capsys.readouterr().err
    assert 'other classes (circle, rectangle, triangle) than the data has (triangle, rectangle' in error
    assert '; change metainfo.classes, or use a config without it' in error


@pytest.mark.slow
def test_resume(trained: Path, narrow: Path, root: Path, tmp_path: Path, capsys) -> None:
    """To the bit, with Mixup and random crops; not with other classes."""
    shutil.copytree(trained, tmp_path / 'work', ignore=shutil.ignore_patterns('epoch_2.pth', 'last_*'))
    words = [narrow, '--data-root', root, '--work-dir', tmp_path / 'work', '--resume']
    (root / 'train' / 'circle').rename(root / 'train' / 'disc')
    (root / 'val' / 'circle').rename(root / 'val' / 'disc')
    assert train(*words) == 1
    assert 'was trained on other classes (with circle, without disc)' in capsys.readouterr().err
    for split in ('train', 'val'):
        (root / split / 'disc').rename(root / split / 'circle')
    assert train(*words, '--cfg-options', 'train_dataloader.num_workers=1') == 0
    assert 'trained differently' not in log_of(tmp_path / 'work')
    assert_same_state(trained, tmp_path / 'work', 'epoch_2.pth')


@pytest.mark.slow
@pytest.mark.parametrize('workers', [0, 1])
def test_an_unreadable_image(narrow: Path, root: Path, tmp_path: Path, workers: int, capsys) -> None:
    path = root / 'train' / 'circle' / '00000001.jpg'
    path.write_bytes(path.read_bytes()[:200])
    words = ['--data-root', root, '--work-dir', tmp_path / 'work', '--no-val']
    assert train(narrow, *words, '--cfg-options', f'train_dataloader.num_workers={workers}') == 1
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error == f'error: {path} cannot be read as an image; replace the file, or remove it from the data'


def test_the_work_folder_is_no_class(narrow: Path, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train(narrow, '--data-root', root, '--work-dir', root / 'train' / 'run') == 1
    assert 'contains the data; choose another place' in capsys.readouterr().err
    assert not (root / 'train' / 'run').exists()
