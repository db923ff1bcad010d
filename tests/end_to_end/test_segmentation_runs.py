"""Training, evaluation and prediction on images and label maps, and invalid inputs for them."""

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from PIL import Image

from crossformer_mm.engine import cli
from crossformer_mm.engine import test as test_command
from crossformer_mm.engine import train as train_command
from crossformer_mm.engine.distributed import sync_bn_warnings
from crossformer_mm.engine.infer import infer, inference_parser

TOOLS = Path(__file__).parents[2] / 'tools'
UNLABELLED = 9


@pytest.fixture(scope='module')
def narrow(narrow_segmentor: Callable[[str], Config], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A narrow UPerNet for two steps, as a file."""
    cfg = narrow_segmentor('upernet_crossformer_s')
    cfg.train_cfg.update(max_iters=2, val_interval=2)
    path = tmp_path_factory.mktemp('config') / 'narrow.py'
    cfg.dump(path)
    return path


def draw(root: Path, first: int = 0) -> None:
    """Write a dataset in ADE20K's layout with a background, a rectangle and unlabelled pixels, in odd sizes.

    ``first`` is the background's value; the rectangle's is one more.
    """
    random = np.random.default_rng(0)
    for split, count in (('training', 4), ('validation', 2)):
        for kind in ('images', 'annotations'):
            (root / kind / split).mkdir(parents=True)
        for i in range(count):
            labels = np.full((57 + 6 * i, 83 - 10 * i), first, np.uint8)
            labels[20:40, 10:40] = first + 1
            image = 90 * (labels - first + 1)[..., None] + random.integers(0, 60, (*labels.shape, 3))
            labels[:5] = UNLABELLED
            Image.fromarray(image.astype(np.uint8)).save(root / 'images' / split / f'{i}.png')
            Image.fromarray(labels).save(root / 'annotations' / split / f'{i}.png')


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Data that a test may damage."""
    draw(tmp_path / 'data')
    return tmp_path / 'data'


@pytest.fixture(scope='module')
def trained(narrow: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The work folder of a training by the tool itself, with its data and the names of its classes."""
    folder = tmp_path_factory.mktemp('trained')
    draw(folder / 'data')
    (folder / 'names.txt').write_text('background\nrectangle\n')
    subprocess.run([sys.executable, TOOLS / 'train.py', narrow, *options(folder)], check=True)
    return folder


def options(folder: Path) -> list[str | Path]:
    words: list[str | Path] = ['--data-root', folder / 'data', '--classes', folder / 'names.txt']
    return [*words, '--ignore-label', str(UNLABELLED), '--work-dir', folder / 'run']


def train(*words: str | Path) -> int:
    return cli.run(train_command.training_parser(), train_command.train, list(map(str, words)))


def log_of(work_dir: Path) -> str:
    """The log of the latest run there."""
    return max(work_dir.glob('*/*.log')).read_text()


def test_training_says_what_it_learns(trained: Path) -> None:
    log = log_of(trained / 'run')
    assert log.count('2 classes: background, rectangle') == 1
    for split, count in (('training', 4), ('validation', 2)):
        assert f'annotations/{split}: {count} label maps, read; 0 is the first class' in log
    assert len(re.findall(rf'^ +{UNLABELLED} .* ignored$', log, re.MULTILINE)) == 2
    assert 'never occur' not in log
    assert 'all SyncBatchNorm (SyncBN) layers in the model will be automatically reverted' in log
    assert 'mIoU: ' in log


def test_the_checkpoint_holds_the_classes(trained: Path) -> None:
    checkpoint = torch.load(trained / 'run' / 'iter_2.pth', weights_only=False)
    assert tuple(checkpoint['meta']['dataset_meta']['classes']) == ('background', 'rectangle')
    for head in ('decode_head', 'auxiliary_head'):
        assert checkpoint['state_dict'][f'{head}.conv_seg.weight'].shape[0] == 2


def test_evaluation_takes_the_same_options(trained: Path, narrow: Path, tmp_path: Path) -> None:
    words = [narrow, trained / 'run' / 'iter_2.pth', *options(trained), '--work-dir', tmp_path]
    scores = test_command.evaluate(test_command.evaluation_parser().parse_args(list(map(str, words))))
    assert 0 <= scores['mIoU'] <= 100
    log = log_of(tmp_path)
    assert 'annotations/validation: 2 label maps, read' in log
    assert 'annotations/training: ' not in log
    assert re.search(r'\| +rectangle +\|', log)


def test_evaluation_on_other_classes(
    trained: Path, narrow: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [
        narrow,
        trained / 'run' / 'iter_2.pth',
        '--data-root',
        trained / 'data',
        '--work-dir',
        tmp_path / 'w',
    ]
    parser, test = test_command.evaluation_parser(), lambda options: test_command.evaluate(options) and None
    assert cli.run(parser, test, list(map(str, words))) == 1
    message = capsys.readouterr().err
    assert 'was trained on other classes (background, rectangle) than the data has (wall, building' in message
    assert '--classes' in message
    assert not (tmp_path / 'w').exists()


def test_prediction_knows_the_classes(trained: Path, narrow: Path, tmp_path: Path) -> None:
    words = [trained / 'data' / 'images' / 'validation', '--out', tmp_path / 'out']
    words += ['--config', narrow, '--checkpoint', trained / 'run' / 'iter_2.pth', '--device', 'cpu']
    assert infer(inference_parser().parse_args(list(map(str, words)))) == 0
    results = json.loads((tmp_path / 'out' / 'results.json').read_text())
    assert results['classes'] == ['background', 'rectangle']
    assert [(image['height'], image['width']) for image in results['images']] == [(57, 83), (63, 73)]


@pytest.mark.slow
def test_classes_after_an_ignored_zero(narrow: Path, tmp_path: Path) -> None:
    draw(tmp_path / 'data', first=1)
    words = [narrow, '--data-root', tmp_path / 'data', '--classes', '2', '--ignore-label', UNLABELLED]
    assert train(*words, '--reduce-zero-label', '--work-dir', tmp_path / 'run') == 0
    log = log_of(tmp_path / 'run')
    assert '; 0 is ignored (reduce_zero_label)' in log
    assert re.search(r'^ +1 .* class 0$', log, re.MULTILINE)


@pytest.mark.slow
def test_the_dumped_config_needs_no_options(trained: Path, tmp_path: Path) -> None:
    assert train(trained / 'run' / 'narrow.py', '--work-dir', tmp_path) == 0
    assert '2 classes: background, rectangle' in log_of(tmp_path)


def test_processes_without_gpus_use_bn(narrow: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cfg = Config.fromfile(narrow)
    cfg.launcher = 'none'
    assert sync_bn_warnings(cfg) == []  # the runner of one process does it
    assert cfg.model.decode_head.norm_cfg.type == 'SyncBN'
    cfg.launcher = 'pytorch'
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    assert 'is replaced by BN' in ' '.join(sync_bn_warnings(cfg))
    assert cfg.model.decode_head.norm_cfg.type == cfg.model.auxiliary_head.norm_cfg.type == 'BN'
    assert sync_bn_warnings(cfg) == []


def test_gpus_keep_sync_bn(narrow: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cfg = Config.fromfile(narrow)
    cfg.launcher = 'pytorch'
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    assert sync_bn_warnings(cfg) == []
    assert cfg.model.decode_head.norm_cfg.type == 'SyncBN'


def clear(path: Path) -> None:
    for file in path.iterdir():
        file.unlink()


def save(path: Path, values: np.ndarray) -> None:
    Image.fromarray(values).save(path)


@pytest.mark.parametrize(
    ('damage', 'words', 'message'),
    [
        (None, ['--classes', '2'], 'contains the value 9, which is none of the 2 classes (0 to 1)'),
        (None, ['--classes', '1'], '--classes 1: give 2 to 255 classes'),
        (None, ['--classes', 'no.txt'], '--classes no.txt: neither a text file'),
        (
            lambda root: save(root / 'images' / 'validation' / '0.png', np.zeros((4, 5), np.uint8)),
            [],
            'validation/0.png has 5×4 pixels and its label map',
        ),
        (
            lambda root: (root / 'annotations' / 'training' / '3.png').unlink(),
            [],
            'images/training/3.png has no label map',
        ),
        (
            lambda root: (root / 'images' / 'training' / '3.png').unlink(),
            [],
            'annotations/training/3.png has no image of the same name',
        ),
        (
            lambda root: save(root / 'annotations' / 'training' / '0.png', np.zeros((57, 83, 3), np.uint8)),
            [],
            'training/0.png is not a label map but a colour image (RGB)',
        ),
        (
            lambda root: (root / 'annotations' / 'validation' / '1.png').write_bytes(b'no map'),
            [],
            'validation/1.png cannot be read as a label map',
        ),
        (lambda root: clear(root / 'images' / 'training'), [], 'images/training: no images'),
    ],
    ids=lambda value: None if callable(value) or value is None else str(value)[:30],
)
def test_broken_data_are_refused_before_anything_is_written(
    narrow: Path,
    root: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    damage: Callable[[Path], None] | None,
    words: list[str],
    message: str,
) -> None:
    if damage:
        damage(root)
    words = words or ['--classes', '2', '--ignore-label', str(UNLABELLED)]
    assert train(narrow, '--data-root', root, '--work-dir', tmp_path / 'work', *words) == 1
    error = capsys.readouterr().err
    assert error.startswith('error: ')
    assert error.count('\n') == 1
    assert message in error
    assert not (tmp_path / 'work').exists()


def test_masks_of_0_and_255(
    narrow: Path, root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in (root / 'annotations').rglob('*.png'):
        save(path, np.where(np.asarray(Image.open(path)) == 1, 255, 0).astype(np.uint8))
    assert train(narrow, '--data-root', root, '--work-dir', tmp_path / 'work', '--classes', '2') == 1
    assert 'the label maps contain only 0 and 255' in capsys.readouterr().err
