"""``crossformer check`` on COCO data: every kind of problem is found, and no problem hides another."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import cv2
import pytest
from mmengine.config import Config

from crossformer_mm.data.classes import read_data
from crossformer_mm.data.datasets import LOADERS
from crossformer_mm.data.images import shared_images
from crossformer_mm.engine import cli
from crossformer_mm.engine.check import check_dataset, check_parser
from crossformer_mm.utils.errors import UserError
from crossformer_mm.utils.files import files_in

TRAIN = 'annotations/instances_train2017.json'


@pytest.fixture
def own_root(coco_root: Path, tmp_path: Path) -> Path:
    """A copy of the data that a test may damage."""
    return Path(shutil.copytree(coco_root, tmp_path / 'own'))


def check(*words: object) -> int:
    return cli.run(check_parser(), check_dataset, list(map(str, words)))


def edit(path: Path, change: Callable[[dict], None]) -> None:
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))


def test_valid_data(
    flat_config: Path, coco_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert check(flat_config, '--data-root', coco_root, '--out', tmp_path / 'out') == 0
    said = capsys.readouterr().out
    assert '6 images, 0 of them without objects' in said
    assert said.endswith('no errors\n')
    names = sorted(f'{s}_{n}.png' for s in ('train', 'val') for n in ('boxes', 'classes', 'samples'))
    assert [path.name for path in files_in(tmp_path / 'out')] == names
    assert all(cv2.imread(str(tmp_path / 'out' / name)) is not None for name in names)


def test_all_problems_are_listed_at_once(
    flat_config: Path, own_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def damage(data: dict) -> None:
        data['images'].append({**data['images'][0], 'id': 99})
        data['images'][3]['width'] = 63
        for annotation, box in zip(
            data['annotations'], ([1, 1, 0, 5], [60, 9, 9, 9], [9, 9, -3, 3]), strict=False
        ):
            annotation['bbox'] = box
        data['annotations'][4]['segmentation'] = [[1, 2, 3, 4, 5, 6, 7]]
        data['annotations'][5]['category_id'] = 77
        data['categories'].append({'id': 12, 'name': 'star'})

    edit(own_root / TRAIN, damage)
    whole = (own_root / 'train2017' / '000000000002.jpg').read_bytes()
    (own_root / 'train2017' / '000000000002.jpg').write_bytes(whole[: len(whole) // 2])
    (own_root / 'train2017' / '000000000005.jpg').unlink()
    shutil.copy(own_root / 'train2017' / '000000000001.jpg', own_root / 'val2017' / '000000000001.jpg')
    assert check(flat_config, '--data-root', own_root) == 1
    said = capsys.readouterr().out
    assert sorted(line for line in said.splitlines() if line.startswith(('error', 'warning'))) == [
        'error: annotations of unknown categories: 1',
        'error: boxes of negative size: 1',
        'error: different categories: 1',
        'error: images of another size: 1',
        'error: images that are missing: 1',
        'error: images that cannot be read: 1',
        'error: invalid masks: 1',
        'warning: boxes that reach outside: 1',
        'warning: categories without objects: 1',
        'warning: images listed twice: 1',
        'warning: images that are in the training set too: 1',
        'warning: images that training leaves out: 1',
        'warning: objects that training leaves out: 1',
    ]


@pytest.mark.parametrize(
    ('chosen', 'message'),
    [
        (('circle', 'triangle'), None),
        (('triangle', 'circle'), "write ('circle', 'triangle')"),
        (('circle', 'star'), 'has no category "star"'),
    ],
)
def test_classes_that_the_config_selects_are_those_that_a_training_accepts(
    flat_config: Path,
    own_root: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    chosen: tuple[str, ...],
    message: str | None,
) -> None:
    def leave_two(data: dict) -> None:
        data['categories'] = [c for c in data['categories'] if c['name'] in ('circle', 'triangle')]
        known = {category['id'] for category in data['categories']}
        data['annotations'] = [a for a in data['annotations'] if a['category_id'] in known]

    edit(own_root / 'annotations' / 'instances_val2017.json', leave_two)
    cfg = Config.fromfile(flat_config)
    for loader in LOADERS:
        cfg[loader].dataset.update(metainfo={'classes': chosen}, data_root=str(own_root))
    cfg.dump(tmp_path / 'chosen.py')
    assert check(tmp_path / 'chosen.py') == (message is not None)
    said = capsys.readouterr().out
    if message:
        assert said.count('error: classes that the config selects: 1') == 2 and message in said
        with pytest.raises(UserError, match=re.escape(message)):
            read_data(cfg, LOADERS)
    else:
        assert said.endswith('no errors\n')
        assert read_data(cfg, LOADERS).classes == chosen


def test_repairs_and_similar_names_are_listed(
    flat_config: Path, own_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def damage(data: dict) -> None:
        for annotation in data['annotations']:
            del annotation['area']
        data['images'][0]['file_name'] = 'TRAIN\\000000000001.JPG'
        data['images'][1].update(height=40, width=48)  # written the wrong way round
        data['annotations'] = [a for a in data['annotations'] if a['image_id'] != data['images'][1]['id']]
        data['images'][2]['file_name'] = 'x.jpg'

    edit(own_root / TRAIN, damage)
    image = own_root / 'train2017' / '000000000002.jpg'
    cv2.imwrite(str(image), cv2.imread(str(image))[:48, :40])
    for name in ('a', 'b'):
        (own_root / 'train2017' / name).mkdir()
        (own_root / 'train2017' / name / 'x.jpg').touch()
    before = (own_root / TRAIN).read_bytes()
    objects = len(json.loads(before)['annotations'])
    assert check(flat_config, '--data-root', own_root, '--sample', '6') == 1
    said = capsys.readouterr().out
    assert [line for line in said.splitlines() if line.startswith(('error', 'warning'))] == [
        'error: images that are missing: 1',
        'warning: file names that differ from those in the folder, found: 1',
        'warning: height and width that are the wrong way round, exchanged: 1',
        f'warning: areas that are missing or not above 0, computed from the masks or boxes: {objects}',
        'warning: images that training leaves out: 1',
    ]
    assert 'x.jpg; similar: a/x.jpg, b/x.jpg' in said
    assert 'training on 5 of 6 images; left out: 1 without objects' in said
    assert (own_root / TRAIN).read_bytes() == before


def test_many_problems_are_counted_and_few_shown(
    flat_config: Path, own_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    edit(own_root / TRAIN, lambda data: [a.update(bbox=[1]) for a in data['annotations']])
    assert check(flat_config, '--data-root', own_root, '--show', '2') == 1
    said = capsys.readouterr().out
    count = len(json.loads((own_root / TRAIN).read_text())['annotations'])
    assert f'error: boxes that are not four numbers: {count}' in said
    assert said.count('has the bbox [1]') == 2


def test_a_file_that_is_no_json_or_missing_does_not_hide_the_other(
    flat_config: Path, own_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (own_root / TRAIN).write_text('{')
    (own_root / 'val2017' / '000000000001.jpg').unlink()
    assert check(flat_config, '--data-root', own_root) == 1
    said = capsys.readouterr().out
    assert 'is not valid JSON' in said
    assert 'error: images that are missing: 1' in said
    assert '--train-ann' not in said

    (own_root / TRAIN).unlink()
    assert check(flat_config, '--data-root', own_root) == 1
    said = capsys.readouterr().out
    assert re.search(r'no such annotation file\n    → set other paths with .* --train-ann FILE', said)


def test_without_a_validation_set(
    flat_config: Path, own_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(own_root / 'val2017')
    assert check(flat_config, '--data-root', own_root) == 1
    assert 'val2017' in capsys.readouterr().out
    assert check(flat_config, '--data-root', own_root, '--no-val') == 0
    assert 'val2017' not in capsys.readouterr().out


@pytest.mark.parametrize('option', ['--sample', '--show'])
def test_numbers_that_cannot_be(
    flat_config: Path, coco_root: Path, capsys: pytest.CaptureFixture[str], option: str
) -> None:
    assert check(flat_config, '--data-root', coco_root, option, '0') == 1
    assert f'{option} 0: must be at least 1' in capsys.readouterr().err


def test_a_sample_of_the_images(
    flat_config: Path, own_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Images outside the sample may be damaged and are not drawn."""
    for path in (own_root / 'train2017').iterdir():
        path.write_bytes(b'no image')
    check(flat_config, '--data-root', own_root, '--sample', '2', '--out', tmp_path / 'out')
    assert 'error: images that cannot be read: 2' in capsys.readouterr().out
    assert not (tmp_path / 'out' / 'train_samples.png').exists()


def test_shared_images_are_of_one_content(tmp_path: Path) -> None:
    contents = {'a': b'12', 'b': b'34', 'c': b'345', 'd': b'34', 'e': b'56'}
    paths = {name: tmp_path / name for name in contents}
    for name, content in contents.items():
        paths[name].write_bytes(content)
    first, second = [paths[n] for n in 'abc'], [paths[n] for n in 'de']
    assert list(shared_images(first, second)) == [(paths['b'], paths['d'])]
