"""YOLO: where images and labels are, the lines of label files, and a line for all that is wrong."""

from pathlib import Path

import pytest
from format_files import TURNED, contents, fatal, image, objects, warnings, write

from crossformer_mm.data.formats import yolo
from crossformer_mm.utils.errors import UserError

BOX = '1 0.5 0.5 0.2 0.1\n'  # the box of the class "ant"
READ = ('ant', [40, 36, 20, 8])
ROBOFLOW = 'train: ../train/images\nval: ../valid/images\ntest: ../test/images\n'  # relative to nowhere
NAMES = 'names: [zebra, ant]\n'


def sample(root: Path, images: str, labels: str, name: str = 'a', text: str = BOX) -> None:
    image(root / images / f'{name}.jpg')
    write(root / labels / f'{name}.txt', text)


def both(root: Path, images: str, labels: str, val: str) -> None:
    for split in ('train', val):
        sample(root, images.format(split), labels.format(split))


@pytest.mark.parametrize(
    ('text', 'images', 'labels', 'val'),
    [
        ('train: images/train\nval: images/val\nnc: 2\n', 'images/{}', 'labels/{}', 'val'),
        ('path: ..\ntrain: data/images/train\nval: [data/images/val]\n', 'images/{}', 'labels/{}', 'val'),
        (
            'train: ../train/images\nval: ../valid/images\ntest: ../test/images\n',
            '{}/images',
            '{}/labels',
            'valid',
        ),
        ('train: /content/x/train/images\nval: C:\\x\\val\\images\n', '{}/images', '{}/labels', 'val'),
        ('path: /other/machine\ntrain: train\nval: ./val\n', '{}/images', '{}/labels', 'val'),
    ],
    ids=['folders', 'path', 'roboflow', 'absolute', 'other path'],
)
@pytest.mark.parametrize('names', [NAMES, 'names:\n  1: ant\n  0: zebra\n', 'names: ["zebra", ant]\n'])
def test_data_yaml(tmp_path: Path, text: str, images: str, labels: str, val: str, names: str) -> None:
    root = tmp_path / 'data'
    both(root, images, labels, val)
    write(root / 'data.yaml', text + names)
    layout, read, problems = contents(yolo, root)
    assert layout.classes == ('zebra', 'ant') and list(read) == ['train', 'val'] and not problems
    for content in read.values():
        assert [found[1:] for found in objects(content)] == [READ]
        assert [category['name'] for category in content['categories']] == ['zebra', 'ant']


def test_another_dataset_beside_roboflows_is_not_read(tmp_path: Path) -> None:
    both(tmp_path / 'own', '{}/images', '{}/labels', 'valid')
    sample(tmp_path, 'train/images', 'train/labels', 'other')
    write(tmp_path / 'own' / 'data.yaml', ROBOFLOW + NAMES)
    layout, _, _ = contents(yolo, tmp_path / 'own')
    assert layout.splits['train'].images == tmp_path / 'own' / 'train' / 'images'


@pytest.mark.parametrize('before', ['', './', 'data/', '{}/'])
def test_lists_of_images(tmp_path: Path, before: str) -> None:
    both(tmp_path, 'images/{}', 'labels/{}', 'val')
    for split in ('train', 'val'):
        sample(tmp_path, f'images/{split}', f'labels/{split}', 'not listed')
        write(tmp_path / f'{split}.txt', f'{before.format(tmp_path)}images/{split}/a.jpg\n')
    write(tmp_path / 'data.yaml', f'train: train.txt\nval: val.txt\n{NAMES}')
    _, read, problems = contents(yolo, tmp_path)
    assert [list(objects(content)) for content in read.values()] == [
        [('images/train/a.jpg', *READ)],
        [('images/val/a.jpg', *READ)],
    ]
    assert not problems
    write(tmp_path / 'val.txt', 'images/val/a.jpg\nimages/val/missing.jpg\n')
    _, _, problems = contents(yolo, tmp_path)
    (line,) = fatal(problems)
    assert f'{tmp_path / "val.txt"}, line 2: images/val/missing.jpg' in line


@pytest.mark.parametrize(
    ('images', 'labels', 'names'),
    [
        ('images/{}', 'labels/{}', 'classes.txt'),
        ('{}/images', '{}/labels', 'train/classes.txt'),
        ('{}', '{}', 'train/_darknet.labels'),
        ('images/{}', 'labels/{}', 'labels/train/classes.txt'),
    ],
)
def test_folders_without_a_data_yaml(tmp_path: Path, images: str, labels: str, names: str) -> None:
    both(tmp_path, images, labels, 'valid')
    write(tmp_path / names, 'zebra\nant\n')
    layout, read, problems = contents(yolo, tmp_path)
    assert layout.classes == ('zebra', 'ant') and list(read) == ['train', 'val'] and not problems
    assert [found[1:] for content in read.values() for found in objects(content)] == [READ, READ]


@pytest.mark.parametrize(
    ('images', 'labels'), [('images', 'labels'), ('.', '.'), ('images/deep', 'labels/deep')]
)
def test_unsplit_and_unnamed(tmp_path: Path, images: str, labels: str) -> None:
    sample(tmp_path, images, labels)
    sample(tmp_path, images, labels, 'b', '')
    layout, read, _ = contents(yolo, tmp_path)
    assert layout.classes is None and list(read) == ['train']
    assert [found[1:] for found in objects(read['train'])] == [('class 1', READ[1])]
    assert [category['name'] for category in read['train']['categories']] == ['class 0', 'class 1']


def test_darknet_as_cvat_writes_it(tmp_path: Path) -> None:
    sample(tmp_path, 'obj_train_data', 'obj_train_data')
    write(
        tmp_path / 'obj.data',
        'classes = 2\ntrain = data/train.txt\nnames = data/obj.names\n',
    )
    write(tmp_path / 'obj.names', 'zebra\nant\n')
    write(tmp_path / 'train.txt', 'data/obj_train_data/a.jpg\n')
    _, read, _ = contents(yolo, tmp_path)
    assert list(objects(read['train'])) == [('obj_train_data/a.jpg', *READ)]


def test_class_names_stay_text(tmp_path: Path) -> None:
    sample(tmp_path, 'images', 'labels')
    write(tmp_path / 'data.yaml', 'train: images\nnames: [no, 1e3, 2026-01-01, Größe]\n')
    assert contents(yolo, tmp_path)[0].classes == ('no', '1e3', '2026-01-01', 'Größe')


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('train: images\nnc: 3\nnames: [a, b]', 'nc is 3, but names has 2'),
        ('train: images\nnames: [a, a]', "repeats 'a'"),
        ('train: images\nnames: {0: a, 2: b}', "key '2'"),
        ('train: nowhere\nnames: [a]', 'train is "nowhere", which is neither in'),
        ('train: images\nnames: [a\nval: 3', r'line \d is not valid YAML'),
        ('train: images\nnames: [a]\nkpt_shape: [17, 3]', 'keypoints'),
    ],
)
def test_broken_data_yaml(tmp_path: Path, text: str, message: str) -> None:
    sample(tmp_path, 'images', 'labels')
    path = write(tmp_path / 'data.yaml', text)
    with pytest.raises(UserError, match=message) as error:
        list(yolo.find(tmp_path))
    assert str(path) in str(error.value)


@pytest.mark.parametrize(
    ('line', 'message'),
    [
        ('2 0.5 0.5 0.1 0.1', 'there is no class 2; the last of 2 is 1'),
        ('-1 0.5 0.5 0.1 0.1', 'no class -1'),
        ('0.5 0.5 0.5 0.1 0.1', 'no class 0.5'),
        ('0 0.5 0.5 0.1', '4 numbers instead of'),
        ('0 0.5 0.5 0.1 0.1 0.9', '6 numbers instead of'),
        ('0 0.1 0.1 0.2 0.1 0.2', '6 numbers instead of'),
        ('0 .5 .5 .4 .4 .4 .4 2 .6 .6 1', '11 numbers instead of'),
        ('0 50 40 20 10', '50 is not a fraction'),
        ('0 0.5 0.5 0.1 -0.1', '-0.1 is not a fraction'),
        ('0 0.5 0.5 0.1 -0.001', '-0.001 is not a fraction'),
        ('0 0.5 0.5 0.1 nan', 'NaN'),
        ('0 0,5 0,5 0,1 0,1', '"0,5" is not a number'),
    ],
)
def test_broken_lines_name_file_and_line(tmp_path: Path, line: str, message: str) -> None:
    sample(tmp_path, 'images', 'labels', text=f'{BOX}\n{line}\n{BOX.replace("0.2", "0.3")}')
    write(tmp_path / 'data.yaml', f'train: images\n{NAMES}')
    _, read, problems = contents(yolo, tmp_path)
    (found,) = fatal(problems)
    assert found.startswith(f'{tmp_path / "labels" / "a.txt"}, line 3: ') and message in found
    assert len(read['train']['annotations']) == 2


def test_boxes_and_polygons_are_exact(tmp_path: Path) -> None:
    lines = ['0 0.1234567 0.5 0.0123456 0.25', '1 .1 .1 .5 .1 .3 .6', '1 .1 .1 .5 .1 .5 .6 .1 .6']
    sample(tmp_path, 'images', 'labels', text='\n'.join(lines))
    _, read, problems = contents(yolo, tmp_path)
    box, triangle, rectangle = read['train']['annotations']
    assert box['bbox'] == pytest.approx([11.72839, 30, 1.23456, 20], abs=1e-9)
    assert 'segmentation' not in box and box['area'] == pytest.approx(1.23456 * 20)
    assert triangle['segmentation'][0] == pytest.approx([10, 8, 50, 8, 30, 48])
    assert triangle['bbox'] == pytest.approx([10, 8, 40, 40]) and triangle['area'] == pytest.approx(800)
    assert rectangle['segmentation'][0] == pytest.approx([10, 8, 50, 8, 50, 48, 10, 48])
    assert not problems


@pytest.mark.parametrize(
    'text',
    [
        '0 .2 0 .25 .1 .2 .2 0 .2 0 0',
        '0 .8 .95 .85 .9 .95 .85 1 .9 1 1',
        '0 .6 .6 .8 .6 .9 .6 1 .7 .9 1\n0 .1 .1 .5 .1 .3 .6',
    ],
    ids=['first corner', 'last corner', 'beside another polygon'],
)
def test_polygons_in_corners_are_no_keypoints(tmp_path: Path, text: str) -> None:
    sample(tmp_path, 'images', 'labels', text=text)
    _, read, problems = contents(yolo, tmp_path)
    assert len(read['train']['annotations']) == len(text.splitlines()) and not fatal(problems)


def test_keypoints_are_refused_if_no_visibility_is_2(tmp_path: Path) -> None:
    line = '0 .5 .5 .4 .4 .4 .4 1 .6 .6 1\n'
    sample(tmp_path, 'images', 'labels', text=line + line.replace('1', '0') + line.replace('.6', '.55'))
    _, _, problems = contents(yolo, tmp_path)
    found = fatal(problems)
    assert found and all('11 numbers instead of' in line and 'keypoints' in line for line in found)


def test_parts_joined_by_a_passed_edge_are_one_object(tmp_path: Path) -> None:
    first, second = '0.1 0.1 0.3 0.1 0.3 0.3', '0.6 0.6 0.8 0.6 0.8 0.8'
    line = f'0 {first} {second} 0.6 0.6 0.3 0.3'
    sample(tmp_path, 'images', 'labels', text=line)
    _, read, _ = contents(yolo, tmp_path)
    (found,) = read['train']['annotations']
    assert sorted(map(len, found['segmentation'])) == [6, 6]
    assert found['area'] == pytest.approx(2 * 160) and found['bbox'] == pytest.approx([10, 8, 70, 56])


def test_what_is_missing_repeated_or_left_over_is_named(tmp_path: Path) -> None:
    sample(tmp_path, 'images', 'labels', text=f'{BOX}1 0.5 0.5 0.2 0.1\n0 0.5 0.5 0 0.1\n0 1.004 .5 .1 .1\n')
    sample(tmp_path, 'images', 'labels', 'empty', '')
    unlabelled = image(tmp_path / 'images' / 'no label.jpg')
    orphan = write(tmp_path / 'labels' / 'orphan.txt', BOX)
    write(tmp_path / 'data.yaml', f'train: images\n{NAMES}')
    _, read, problems = contents(yolo, tmp_path)
    file = tmp_path / 'labels' / 'a.txt'
    assert warnings(problems) == [
        f'label files without an image, ignored: {orphan}',
        f'repeated lines, left out: {file}, line 2 repeats line 1',
        f'objects that training leaves out: {file}, line 3: zebra has the box [50.0, 36.0, 0.0, 8.0] and the'
        ' area 0: less than a pixel',
        f'fractions that are slightly outside 0 to 1: {file}, line 4 has 1.004',
        f'images without a label file, read as images without objects: {unlabelled}',
    ]
    assert len(read['train']['images']) == 3 and len(read['train']['annotations']) == 3


@pytest.mark.parametrize(('ignore_exif', 'size'), [(False, (100, 80)), (True, (80, 100))])
def test_sizes_are_those_of_the_loaded_image(
    tmp_path: Path, ignore_exif: bool, size: tuple[int, int]
) -> None:
    sample(tmp_path, 'images', 'labels')
    image(tmp_path / 'images' / 'a.jpg', orientation=TURNED)
    _, read, _ = contents(yolo, tmp_path, ignore_exif=ignore_exif)
    (found,) = read['train']['images']
    assert (found['height'], found['width']) == size


def test_all_images_are_not_a_missing_split(tmp_path: Path) -> None:
    sample(tmp_path, 'images', 'labels')
    write(tmp_path / 'data.yaml', f'train: images\nval: valid/images\n{NAMES}')
    with pytest.raises(UserError, match='val is "valid/images", which is neither in'):
        list(yolo.find(tmp_path))


def test_other_folders_are_not_yolos(tmp_path: Path) -> None:
    image(tmp_path / 'a.jpg')
    write(tmp_path / 'a.txt', 'a photograph of a zebra and an ant')
    image(tmp_path / 'table' / 'a.jpg')
    write(tmp_path / 'table' / 'numbers.txt', '1 2 3 4 5')
    write(tmp_path / 'mkdocs.yml', 'site_name: x\nnav: [a\n')
    image(tmp_path / 'kitti' / 'images' / 'a.png')
    write(tmp_path / 'kitti' / 'labels' / 'a.txt', 'Car 0.00 0 -1.58 587.01 173.33 614.12 200.12 1.65 1.67')
    for name in ('.', 'kitti', 'table', 'nowhere'):
        assert not list(yolo.find(tmp_path / name))


def test_accents_in_names_are_written_in_two_ways(tmp_path: Path) -> None:
    image(tmp_path / 'images' / 'fu\u0308nf.jpg')
    write(tmp_path / 'labels' / 'f\u00fcnf.txt', BOX)
    image(tmp_path / 'images' / 'A.jpg')
    write(tmp_path / 'labels' / 'a.txt', BOX)
    write(tmp_path / 'classes.txt', 'zebra\nant\n')
    _, read, problems = contents(yolo, tmp_path)
    assert list(objects(read['train'])) == [('fu\u0308nf.jpg', *READ)]
    assert len(problems) == 2 and 'a.txt' in str(problems) and 'A.jpg' in str(problems)
