"""``crossformer convert-dataset``: all directions, splits, and that nothing half-done is left."""

import base64
import json
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from format_files import image, labelme, write, xml
from PIL import ExifTags, Image

from crossformer_mm.data.shapes import write_coco
from crossformer_mm.engine import cli
from crossformer_mm.engine.convert_dataset import convert_dataset, dataset_parser

TOOL = Path(__file__).parents[2] / 'tools' / 'convert_dataset.py'


def convert(*words: object) -> int:
    return cli.run(dataset_parser(), convert_dataset, list(map(str, words)))


@pytest.fixture(scope='module')
def coco(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """COCO data of 12 training and 3 validation images."""
    root = tmp_path_factory.mktemp('data') / 'coco'
    write_coco(root, train=12, val=3, size=64)
    return root


def content(root: Path, split: str) -> dict:
    return json.loads((root / 'annotations' / f'instances_{split}2017.json').read_text())


def objects(root: Path, split: str) -> list[tuple]:
    """The file, class, and box of all objects."""
    found = content(root, split)
    names = {image['id']: image['file_name'] for image in found['images']}
    classes = {category['id']: category['name'] for category in found['categories']}
    return sorted(
        (names[a['image_id']], classes[a['category_id']], *(round(side, 3) for side in a['bbox']))
        for a in found['annotations']
    )


@pytest.mark.parametrize(
    ('words', 'lost'),
    [
        (['yolo', '--boxes'], 'masks, left out: '),
        (['voc'], "masks, which VOC's format does not have, left out: "),
        (['coco'], 'all labels are kept'),
    ],
)
def test_there_and_back(
    coco: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], lost: str
) -> None:
    assert convert(coco, tmp_path / 'other', '--to', *words) == 0
    printed = capsys.readouterr().out.splitlines()
    count = len(objects(coco, 'train'))
    assert printed[0] == f'{coco}: COCO 2017, train, val'
    start = (
        f'{tmp_path}/other: {words[0]}, 3 classes, train 12 images with {count} objects, val 3 images with'
    )
    assert printed[-1].startswith(start)
    assert lost in printed[-1]
    assert convert(tmp_path / 'other', tmp_path / 'back', '--to', 'coco') == 0
    for split in ('train', 'val'):
        second = '-2' if (words[0], split) == ('voc', 'val') else ''  # VOC has one folder for all splits
        found = [
            (name.replace(f'{second}.', '.'), *rest) for name, *rest in objects(tmp_path / 'back', split)
        ]
        assert found == objects(coco, split)
        names = [
            [c['name'] for c in content(root, split)['categories']] for root in (tmp_path / 'back', coco)
        ]
        assert names[0] == names[1]
        for path in (coco / f'{split}2017').iterdir():
            copy = tmp_path / 'back' / f'{split}2017' / f'{path.stem}{second}{path.suffix}'
            assert copy.read_bytes() == path.read_bytes()
    assert not list(tmp_path.rglob('.*'))


def test_polygons_are_kept_in_yolo(coco: Path, tmp_path: Path) -> None:
    assert convert(coco, tmp_path / 'yolo', '--to', 'yolo') == 0
    assert convert(tmp_path / 'yolo', tmp_path / 'back', '--to', 'coco') == 0
    pairs = zip(
        content(tmp_path / 'back', 'val')['annotations'], content(coco, 'val')['annotations'], strict=True
    )
    for after, before in pairs:
        assert after['segmentation'][0] == pytest.approx(before['segmentation'][0], abs=1e-3)


@pytest.mark.parametrize('target', ['coco', 'voc'])
def test_splits(coco: Path, tmp_path: Path, target: str) -> None:
    words = [coco, tmp_path / 'a', '--to', target, '--split', '0.6/0.2/0.2']
    assert convert(*words) == 0
    if target == 'coco':
        names = [
            {i['file_name'] for i in content(tmp_path / 'a', name)['images']}
            for name in ('train', 'val', 'test')
        ]
        files = [
            sorted(path.name for path in (tmp_path / 'a' / f'{s}2017').iterdir())
            for s in ('train', 'val', 'test')
        ]
        assert [sorted(group) for group in names] == files
        everything = sorted(o[1:] for split in ('train', 'val') for o in objects(coco, split))
        assert (
            sorted(o[1:] for s in ('train', 'val', 'test') for o in objects(tmp_path / 'a', s)) == everything
        )
    else:
        lists = [tmp_path / 'a' / 'ImageSets' / 'Main' / f'{name}.txt' for name in ('train', 'val', 'test')]
        names = [set(path.read_text().split()) for path in lists]
    assert [len(group) for group in names] == [9, 3, 3]
    assert convert(*words[:1], tmp_path / 'b', *words[2:]) == 0
    assert listing(tmp_path / 'a') == listing(tmp_path / 'b')
    assert convert(*words[:1], tmp_path / 'c', *words[2:], '--seed', 1) == 0
    assert listing(tmp_path / 'a') != listing(tmp_path / 'c')


def test_splits_whose_classes_have_other_ids_are_divided_by_name(coco: Path, tmp_path: Path) -> None:
    for split, change in (('train', 0), ('val', -1)):
        found = content(coco, split)
        for record, name in [(c, 'id') for c in found['categories']] + [
            (a, 'category_id') for a in found['annotations']
        ]:
            record[name] += change
        write(tmp_path / 'data' / 'annotations' / f'instances_{split}2017.json', json.dumps(found))
        (tmp_path / 'data' / f'{split}2017').symlink_to(coco / f'{split}2017')
    assert convert(tmp_path / 'data', tmp_path / 'out', '--to', 'coco', '--split', '0.5/0.5') == 0
    before, after = (
        sorted(o[1:] for split in ('train', 'val') for o in objects(root, split))
        for root in (coco, tmp_path / 'out')
    )
    assert before == after


def test_labels_of_stored_pixels(one_image: Callable[..., Path], tmp_path: Path) -> None:
    data = one_image(bbox=[1, 1, 9, 9], segmentation=[])
    annotations = data / 'annotations' / 'instances_train2017.json'
    found = json.loads(annotations.read_text())
    (data / 'train2017').unlink()
    path = data / 'train2017' / found['images'][0]['file_name']
    path.parent.mkdir()
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    Image.new('RGB', (64, 40)).save(path.with_suffix('.jpg'), exif=exif)
    found['images'][0].update(width=64, height=40, file_name=path.with_suffix('.jpg').name)
    annotations.write_text(json.dumps(found))
    assert convert(data, tmp_path / 'out', '--to', 'voc') == 1
    assert convert(data, tmp_path / 'out', '--to', 'voc', '--ignore-exif') == 0
    text = next((tmp_path / 'out' / 'Annotations').glob('*.xml')).read_text()
    assert '<width>64</width>' in text


@pytest.fixture
def one_image(coco: Path, tmp_path: Path) -> Callable[[dict], Path]:
    """A function that writes COCO data with one object on one image of 64×64 pixels."""

    def make(**annotation: object) -> Path:
        found = content(coco, 'train')
        found['images'] = found['images'][:1]
        record = {**found['annotations'][0], 'image_id': found['images'][0]['id'], **annotation}
        found['annotations'] = [record]
        write(tmp_path / 'one' / 'annotations' / 'instances_train2017.json', json.dumps(found))
        (tmp_path / 'one' / 'train2017').symlink_to(coco / 'train2017')
        return tmp_path / 'one'

    return make


@pytest.mark.parametrize(
    ('segmentation', 'line', 'kind'),
    [
        ([[-10, 8, 16, 8, 16, 24]], '0 0 0.125 0.25 0.125 0.25 0.375', 'moved to its border: 1'),
        ([], '0 0.125 0.25 0.25 0.25', 'moved to its border: 1'),
        ([[-10, 8, -2, 8, -2, 24]], '', 'objects outside of their image, left out: 1'),
    ],
)
def test_what_yolo_has_lies_in_the_image(
    one_image: Callable[..., Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    segmentation: list,
    line: str,
    kind: str,
) -> None:
    data = one_image(bbox=[-10, 8, 26, 16], segmentation=segmentation, category_id=1)
    assert convert(data, tmp_path / 'yolo', '--to', 'yolo') == 0
    (labels,) = (tmp_path / 'yolo' / 'labels').rglob('*.txt')
    assert labels.read_text().strip() == line
    assert kind in capsys.readouterr().out


def test_masks_that_are_none_are_refused_where_they_are_written(
    one_image: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = one_image(bbox=[1, 1, 9, 9], segmentation=[[1, 1, 9, 1, 9, 9, 5]])
    assert convert(data, tmp_path / 'yolo', '--to', 'yolo') == 1
    assert 'instances_train2017.json: annotation 1 has a polygon of 7 numbers' in capsys.readouterr().err
    assert convert(data, tmp_path / 'yolo', '--to', 'yolo', '--boxes') == 0


def listing(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob('*') if path.is_file()}


def test_stratified(tmp_path: Path) -> None:
    for i in range(40):
        image(tmp_path / 'yolo' / 'images' / f'{i}.jpg')
        write(tmp_path / 'yolo' / 'labels' / f'{i}.txt', f'{int(i % 4 == 0)} 0.5 0.5 0.25 {0.2 + i / 100}\n')
    write(tmp_path / 'yolo' / 'classes.txt', 'nut\nfig\n')
    # images of different content, since equal ones come into the same split
    for i in range(40):
        image(tmp_path / 'yolo' / 'images' / f'{i}.jpg', width=100 + i)
    for seed in range(3):
        words = ['--to', 'coco', '--split', '0.8/0.2', '--stratify', '--seed', seed]
        assert convert(tmp_path / 'yolo', tmp_path / f'{seed}', *words) == 0
        assert Counter(o[1] for o in objects(tmp_path / f'{seed}', 'val')) == {'nut': 6, 'fig': 2}


def test_difficult_objects(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image(tmp_path / 'voc' / 'JPEGImages' / 'a.jpg')
    text = xml('a.jpg', ('nut', (11, 11, 20, 20)), ('fig', (31, 31, 50, 40)))
    text = text.replace('<name>fig', '<difficult>1</difficult><name>fig')
    write(tmp_path / 'voc' / 'Annotations' / 'a.xml', text)
    for target in ('coco', 'yolo', 'voc'):
        assert convert(tmp_path / 'voc', tmp_path / 'out' / target, '--to', target) == 0
    crowds = [
        (a['difficult'], a['iscrowd']) for a in content(tmp_path / 'out' / 'coco', 'train')['annotations'][1:]
    ]
    assert crowds == [(1, 1)]
    assert len((tmp_path / 'out/yolo/labels/train/a.txt').read_text().splitlines()) == 1
    assert 'crowds, which YOLO cannot mark, left out: 1' in capsys.readouterr().out
    written = (tmp_path / 'out/voc/Annotations/a.xml').read_text()
    assert written.count('<difficult>1<') == 1 and 'iscrowd' not in written


def test_images_inside_label_files(tmp_path: Path) -> None:
    data = image(tmp_path / 'hidden.png').read_bytes()
    box = {'label': 'nut', 'shape_type': 'rectangle', 'points': [[10, 10], [20, 30]], 'group_id': None}
    text = labelme('a.png', box, imageData=base64.b64encode(data).decode())
    write(tmp_path / 'labelme' / 'a.json', text)
    assert convert(tmp_path / 'labelme', tmp_path / 'out', '--to', 'coco') == 0
    (path,) = (tmp_path / 'out' / 'train2017').iterdir()
    assert path.read_bytes() == data
    assert objects(tmp_path / 'out', 'train') == [(path.name, 'nut', 10, 10, 10, 20)]
    assert sorted(p.name for p in (tmp_path / 'out').iterdir()) == ['annotations', 'train2017']


def test_links(coco: Path, tmp_path: Path) -> None:
    assert convert(coco, tmp_path / 'out', '--to', 'voc', '--link') == 0
    first, *_ = sorted((coco / 'train2017').iterdir())
    assert (tmp_path / 'out' / 'JPEGImages' / first.name).samefile(first)


@pytest.mark.parametrize(
    ('words', 'message'),
    [
        (['--split', '0.8'], '--split 0.8: give two or three shares with the sum 1'),
        (['--split', '0.8/0.3'], 'with the sum 1'),
        (['--split', '0/1'], 'with the sum 1'),
        (['--split', 'a/b'], 'with the sum 1'),
        (['--split', 'nan/0.5'], 'with the sum 1'),
        (['--seed', '1'], '--seed and --stratify are for --split'),
        (['--stratify'], '--seed and --stratify are for --split'),
        (['--boxes'], '--boxes is for --to yolo'),
        (['--format', 'labelme'], 'no data that can be converted in the format labelme'),
    ],
)
def test_invalid_options(
    coco: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    assert convert(coco, tmp_path / 'out', '--to', 'coco', *words) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert not list(tmp_path.iterdir())


def test_places_that_are_refused(coco: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / 'full' / 'a.txt', 'mine')
    before = listing(coco)
    for root, out, message in [
        (coco, tmp_path / 'full', 'is not empty; give a new folder'),
        (coco, tmp_path / 'full' / 'a.txt', 'is a file, not a folder'),
        (coco, coco / 'converted', 'contains the data'),
        (tmp_path / 'no', tmp_path / 'out', 'no such folder'),
        (tmp_path / 'full', tmp_path / 'out', 'There is a.txt'),
    ]:
        assert convert(root, out, '--to', 'yolo') == 1
        assert message in capsys.readouterr().err
    assert listing(tmp_path) == {'full/a.txt': b'mine'}
    assert listing(coco) == before


def test_a_broken_file_leaves_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ('a', 'b'):
        image(tmp_path / 'voc' / 'JPEGImages' / f'{name}.jpg')
        write(tmp_path / 'voc' / 'Annotations' / f'{name}.xml', xml(f'{name}.jpg', ('nut', (1, 1, 9, 9))))
    write(tmp_path / 'voc' / 'Annotations' / 'b.xml', '<annotation>\n<object>\n')
    assert convert(tmp_path / 'voc', tmp_path / 'out', '--to', 'coco') == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert 'b.xml, line 3' in line
    assert [path.name for path in tmp_path.iterdir()] == ['voc']


@pytest.mark.slow
@pytest.mark.parametrize('number', [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_killed_conversion_is_not_taken_for_done(tmp_path: Path, number: int) -> None:
    write_coco(tmp_path / 'coco', train=2500, val=1, size=32)
    words = [sys.executable, TOOL, tmp_path / 'coco', tmp_path / 'out', '--to', 'voc']
    process = subprocess.Popen(words, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    part = tmp_path / '.out.crossformer_mm.part'
    while len(list(part.glob('JPEGImages/*'))) < 100:
        assert process.poll() is None
        time.sleep(0.001)
    process.send_signal(number)
    assert process.wait() != 0
    assert not (tmp_path / 'out').exists()
    assert part.exists() == (number == signal.SIGKILL)
    subprocess.run(words, check=True)
    assert not part.exists()
    out = tmp_path / 'out'
    assert len(list((out / 'Annotations').iterdir())) == 2501
    assert {path.name for path in out.iterdir()} == {'Annotations', 'ImageSets', 'JPEGImages', 'classes.txt'}
