"""``crossformer check`` on COCO data: every kind of problem is found, and no problem hides another."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from crossformer_mm.data.images import image_fault, image_faults, shared_images
from crossformer_mm.engine import cli
from crossformer_mm.engine.check import check_dataset, check_parser
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
        'warning: objects that training leaves out: 1',
    ]


def test_many_problems_are_counted_and_few_shown(
    flat_config: Path, own_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    edit(own_root / TRAIN, lambda data: [a.update(bbox=[1]) for a in data['annotations']])
    assert check(flat_config, '--data-root', own_root, '--show', '2') == 1
    said = capsys.readouterr().out
    count = len(json.loads((own_root / TRAIN).read_text())['annotations'])
    assert f'error: boxes that are not four numbers: {count}' in said
    assert said.count('has the bbox [1]') == 2


def test_a_file_that_is_no_json_does_not_hide_the_other(
    flat_config: Path, own_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (own_root / TRAIN).write_text('{')
    (own_root / 'val2017' / '000000000001.jpg').unlink()
    assert check(flat_config, '--data-root', own_root) == 1
    said = capsys.readouterr().out
    assert 'is not valid JSON' in said
    assert 'error: images that are missing: 1' in said


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


def test_image_faults(tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
    for suffix in ('jpg', 'png'):
        path = tmp_path / f'whole.{suffix}'
        cv2.imwrite(str(path), image)
        cut = tmp_path / f'cut.{suffix}'
        cut.write_bytes(path.read_bytes()[:-600])
        assert image_fault(path, (40, 60)) is None
        assert 'has 60×40 pixels, its annotations say 40×60' in image_fault(path, (60, 40))
        assert 'cannot be decoded' in image_fault(cut, (40, 60))
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    Image.fromarray(image).save(tmp_path / 'turned.jpg', exif=exif)
    assert cv2.imread(str(tmp_path / 'turned.jpg')).shape[:2] == (60, 40)
    paths = [tmp_path / 'turned.jpg', tmp_path / 'none.jpg', tmp_path / 'whole.png']
    faults = list(image_faults(paths, [(60, 40)] * 3))
    assert faults[0] is None
    assert 'No such file' in faults[1]
    assert '60×40' in faults[2]


def test_shared_images_are_of_one_content(tmp_path: Path) -> None:
    contents = {'a': b'12', 'b': b'34', 'c': b'345', 'd': b'34', 'e': b'56'}
    paths = {name: tmp_path / name for name in contents}
    for name, content in contents.items():
        paths[name].write_bytes(content)
    first, second = [paths[n] for n in 'abc'], [paths[n] for n in 'de']
    assert list(shared_images(first, second)) == [(paths['b'], paths['d'])]
