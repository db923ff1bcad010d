"""A validation set that is drawn from the training set: ``--val-fraction``."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from mmengine.config import Config

from crossformer_mm.data.classes import read_data
from crossformer_mm.data.shapes import write_ade20k, write_coco
from crossformer_mm.engine import cli
from crossformer_mm.engine import test as test_command
from crossformer_mm.engine import train as train_command
from crossformer_mm.engine.convert_dataset import convert_dataset, dataset_parser
from crossformer_mm.engine.validation_set import draw_validation

TRAIN = 'annotations/instances_train2017.json'
CLASSES = "train_dataloader.dataset.metainfo.classes=('circle','square')"


@pytest.fixture(scope='module')
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset of 10 images in COCO's layout, without a validation set."""
    root = tmp_path_factory.mktemp('whole')
    write_coco(root, train=10, val=1, size=64)
    (root / 'annotations' / 'instances_val2017.json').unlink()
    return root


@pytest.fixture(scope='module')
def narrow(narrow_config: Callable[[str], Config], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A narrow config as a file."""
    cfg = narrow_config('mask_rcnn_crossformer_pp_s')
    cfg.train_cfg.max_epochs = 1
    cfg.model.test_cfg.rcnn.score_thr = 0.0
    path = tmp_path_factory.mktemp('config') / 'narrow.py'
    cfg.dump(path)
    return path


def train(*words: object) -> int:
    return cli.run(train_command.training_parser(), train_command.train, list(map(str, words)))


def content(folder: Path, name: str) -> dict:
    """The content of the only annotation file of a split."""
    (path,) = folder.glob(f'split/{name}-????????.json')
    return json.loads(path.read_text())


@pytest.mark.slow
def test_a_training_with_a_drawn_set(
    narrow: Path, whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root, work = shutil.copytree(whole, tmp_path / 'data'), tmp_path / 'work'
    words = [narrow, '--data-root', root, '--work-dir', work, '--val-fraction', 0.3]
    assert train(*words) == 0
    train_set, val_set = content(work, 'train'), content(work, 'val')
    names = [{image['file_name'] for image in part['images']} for part in (train_set, val_set)]
    assert [len(names[0]), len(names[1]), len(names[0] | names[1])] == [7, 3, 10]
    original = json.loads((root / TRAIN).read_text())
    assert len(train_set['annotations']) + len(val_set['annotations']) == len(original['annotations'])
    log = max(work.glob('*/*.log')).read_text()
    assert f'validation set: 3 of 10 images of {root / TRAIN}, drawn with seed 0: {work}/split/val-' in log

    words_of_test = [work / narrow.name, work / 'epoch_1.pth', '--out', tmp_path / 'r.json']
    words_of_test += ['--work-dir', tmp_path / 'tested']
    test_command.evaluate(test_command.evaluation_parser().parse_args(list(map(str, words_of_test))))
    found = {result['image_id'] for result in json.loads((tmp_path / 'r.bbox.json').read_text())}
    assert found == {image['id'] for image in val_set['images']}

    longer = ['--resume', '--cfg-options', 'train_cfg.max_epochs=2']
    files = sorted((work / 'split').iterdir())
    assert train(*words, *longer) == 0
    assert (work / 'epoch_2.pth').is_file()
    assert sorted((work / 'split').iterdir()) == files
    capsys.readouterr()
    original['annotations'].pop()
    longer = ['--resume', '--cfg-options', 'train_cfg.max_epochs=3']
    for more in (['--val-seed', 1], []):
        if not more:
            (root / TRAIN).write_text(json.dumps(original))
        assert train(*words, *more, *longer) == 1
        assert 'trained with another validation set, or none' in capsys.readouterr().err
        assert sorted((work / 'split').iterdir()) == files
    assert train(work / narrow.name, '--work-dir', work, *longer) == 0, 'the files in the work folder'


@pytest.mark.slow
def test_data_of_another_format(
    narrow: Path, whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """They are converted first; a validation set counts though it has not been converted yet."""
    for name, more in (('whole', []), ('divided', ['--split', '0.8/0.2'])):
        words = [whole, tmp_path / name, '--to', 'yolo', *more]
        assert cli.run(dataset_parser(), convert_dataset, list(map(str, words))) == 0
    words = [narrow, '--work-dir', tmp_path / 'work', '--val-fraction', 0.3, '--data-root']
    parser = train_command.training_parser()
    options = parser.parse_args([*map(str, words), str(tmp_path / 'whole')])
    cfg = train_command.training_config(options)
    drawn = draw_validation(cfg, options, None)
    assert [drawn.train, drawn.val] == [
        Path(cfg[f'{name}_dataloader'].dataset.ann_file) for name in ('train', 'val')
    ]
    assert cfg.test_dataloader.dataset.ann_file == str(drawn.val)
    data = read_data(cfg, ('train_dataloader', 'val_dataloader'))
    assert data.classes == ('circle', 'rectangle', 'triangle')
    assert len(content(tmp_path / 'work', 'val')['images']) == 3
    capsys.readouterr()
    assert train(*words, tmp_path / 'divided') == 1
    assert 'YOLO (data.yaml), train, val); omit --val-fraction to use it' in capsys.readouterr().err


@pytest.mark.parametrize(
    ('words', 'message'),
    [
        (['--val-fraction', '0'], '--val-fraction 0.0: must be a number between 0 and 1'),
        (['--val-fraction', '1'], '--val-fraction 1.0: must be'),
        (['--val-fraction', 'nan'], '--val-fraction nan: must be'),
        (['--val-fraction', '0.2', '--no-val'], 'omit it, or omit --no-val'),
        (['--val-fraction', '0.2', '--val-ann', 'x.json'], 'omit it, or omit --val-ann'),
        (['--val-seed', '3'], '--val-seed 3: is the seed of --val-fraction'),
        (['--val-fraction', '0.2', '--val-images', 'x'], 'omit it, or omit --val-images'),
        (['--val-fraction', '0.2', '--train-ann', 'no.json'], 'no data at'),
    ],
)
def test_contradictory_options(
    narrow: Path,
    whole: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    message: str,
) -> None:
    assert train(narrow, '--data-root', whole, '--work-dir', tmp_path / 'work', *words) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert not (tmp_path / 'work').exists()


def few(root: Path) -> None:
    """Keep one image."""
    found = json.loads((root / TRAIN).read_text())
    found['images'] = found['images'][:1]
    found['annotations'] = [a for a in found['annotations'] if a['image_id'] == found['images'][0]['id']]
    (root / TRAIN).write_text(json.dumps(found))


def equal(root: Path) -> None:
    """Let all images be the same."""
    first, *others = sorted((root / 'train2017').iterdir())
    for path in others:
        shutil.copy(first, path)


def present(root: Path) -> None:
    """Add a validation set."""
    shutil.copy(root / TRAIN, root / 'annotations' / 'instances_val2017.json')


def objectless(root: Path) -> None:
    """Remove the objects of all images but one."""
    found = json.loads((root / TRAIN).read_text())
    found['annotations'] = [a for a in found['annotations'] if a['image_id'] == found['images'][0]['id']]
    (root / TRAIN).write_text(json.dumps(found))


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (few, 'has 1 image, of which 1 differ; at least 2 are needed'),
        (equal, 'has 10 images, of which 1 differ; at least 2 are needed'),
        (present, 'there is a validation set .*; omit --val-fraction to use it'),
        (objectless, 'images drawn from .* have no objects; give a larger share'),
    ],
)
def test_data_that_cannot_be_divided(
    narrow: Path,
    whole: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    change: Callable[[Path], None],
    message: str,
) -> None:
    root = shutil.copytree(whole, tmp_path / 'data')
    change(root)
    words = ['--data-root', root, '--work-dir', tmp_path / 'work', '--val-fraction', 0.2]
    assert train(narrow, *words) == 1
    assert re.search(message, capsys.readouterr().err)
    assert not (tmp_path / 'work').exists()


@pytest.mark.slow
def test_label_maps_say_what_to_do(
    narrow_segmentor: Callable[[str], Config], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_ade20k(tmp_path / 'data', train=2, val=1, size=64)
    narrow_segmentor('fpn_crossformer_s').dump(tmp_path / 'maps.py')
    words = ['--data-root', tmp_path / 'data', '--work-dir', tmp_path / 'work', '--val-fraction', 0.2]
    assert train(tmp_path / 'maps.py', *words) == 1
    assert 'move some images, with their label maps or into folders' in capsys.readouterr().err


def test_a_training_that_cannot_start_leaves_nothing(
    narrow: Path, whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ['--data-root', whole, '--work-dir', tmp_path / 'work', '--val-fraction', 0.2]
    assert train(narrow, *words, '--cfg-options', CLASSES) == 1
    assert 'has no category "square"' in capsys.readouterr().err
    assert not (tmp_path / 'work').exists()
