"""Pascal VOC: where annotations and images are, what coordinates mean, and a line for all that is wrong."""

from collections.abc import Sequence
from pathlib import Path

import pytest
from format_files import TURNED, bndbox, contents, fatal, image, objects, warnings, write, xml

from crossformer_mm.data.formats import voc

BOX = (11, 21, 30, 60)
READ = [10, 20, 20, 40]  # as numbers of pixels from 1
ONE_BASED = "coordinates of VOC's boxes, read as numbers of pixels from 1"


def sample(
    root: Path, name: str = 'a', boxes: Sequence[Sequence[float]] = (BOX,), images: str = 'JPEGImages'
) -> Path:
    image(root / images / f'{name}.jpg')
    path = root / images.replace('JPEGImages', 'Annotations').replace('images', 'annotations') / f'{name}.xml'
    return write(path, xml(f'{name}.jpg', *(('ant', box) for box in boxes)))


def found(content: dict) -> list[tuple]:
    return [(file.rsplit('/', 1)[-1], *rest) for file, *rest in objects(content)]


@pytest.mark.parametrize(
    ('images', 'lists'),
    [
        ('JPEGImages', 'ImageSets/Main'),
        ('images', 'ImageSets/Main'),
        ('JPEGImages', '.'),
        ('VOCdevkit/VOC2007/JPEGImages', 'VOCdevkit/VOC2007/ImageSets/Main'),
    ],
)
def test_lists_of_names(tmp_path: Path, images: str, lists: str) -> None:
    for name in ('a', 'b.c', 'd e', 'not listed'):
        sample(tmp_path, name, images=images)
    write(tmp_path / lists / 'train.txt', 'a\nb.c\n')
    write(tmp_path / lists / 'val.txt', 'd e\n\n')
    write(tmp_path / lists / 'ant_train.txt', 'not listed  1\n')  # one class's, of the same images
    _, read, problems = contents(voc, tmp_path)
    assert found(read['train']) == [('a.jpg', 'ant', READ), ('b.c.jpg', 'ant', READ)]
    assert found(read['val']) == [('d e.jpg', 'ant', READ)]
    assert not fatal(problems)


def test_lists_of_each_class(tmp_path: Path) -> None:
    for name in 'abc':
        sample(tmp_path, name)
    write(tmp_path / 'ImageSets' / 'Main' / 'ant_trainval.txt', 'a  1\nb -1\nc  1\n')
    write(tmp_path / 'ImageSets' / 'Main' / 'ant_train.txt', 'a  1\nb -1\n')
    write(tmp_path / 'ImageSets' / 'Main' / 'bee_train.txt', 'a -1\nb  0\n')
    write(tmp_path / 'ImageSets' / 'Main' / 'ant_val.txt', 'c  1\n')
    _, read, _ = contents(voc, tmp_path)
    assert [[i['file_name'] for i in content['images']] for content in read.values()] == [
        ['a.jpg', 'b.jpg'],
        ['c.jpg'],
    ]


def test_listed_without_a_file(tmp_path: Path) -> None:
    sample(tmp_path)
    path = write(tmp_path / 'ImageSets' / 'Main' / 'train.txt', 'a\nb\n')
    _, _, problems = contents(voc, tmp_path)
    (line,) = fatal(problems)
    assert line == f'{path}, line 2: {tmp_path / "Annotations" / "b"}.xml does not exist'


@pytest.mark.parametrize(
    ('images', 'labels'),
    [
        ('train', 'train'),
        ('train/images', 'train/annotations'),
        ('images/train', 'annotations/train'),
        ('images', 'annotations/train'),
    ],
)
def test_folders(tmp_path: Path, images: str, labels: str) -> None:
    for split in ('train', 'valid'):
        image(tmp_path / images.replace('train', split) / f'{split}.png')
        write(tmp_path / labels.replace('train', split) / f'{split}.xml', xml(f'{split}.png', ('ant', BOX)))
    _, read, problems = contents(voc, tmp_path)
    assert {split: found(content) for split, content in read.items()} == {
        'train': [('train.png', 'ant', READ)],
        'val': [('valid.png', 'ant', READ)],
    }
    assert not fatal(problems)


@pytest.mark.parametrize(
    ('images', 'labels'), [('.', '.'), ('photos', 'photos'), ('images', 'annotations/xmls')]
)
def test_unsplit(tmp_path: Path, images: str, labels: str) -> None:
    image(tmp_path / images / 'a.jpg')
    write(tmp_path / labels / 'a.xml', xml('a.jpg', ('ant', BOX)))
    _, read, _ = contents(voc, tmp_path)
    assert {split: found(content) for split, content in read.items()} == {'train': [('a.jpg', 'ant', READ)]}


@pytest.mark.parametrize(
    ('other', 'box', 'why'),
    [
        ((1, 1, 100, 80), [0, 0, 100, 80], 'numbers of pixels from 1: VOC'),
        ((0, 1, 100, 80), [0, 1, 100, 79], 'positions of edges from 0: there are coordinates below 1'),
        ((9.25, 20.5, 30.75, 40.5), [8.25, 19.5, 22.5, 21], 'numbers of pixels from 1: VOC'),
    ],
)
def test_convention(tmp_path: Path, other: tuple[float, ...], box: list[float], why: str) -> None:
    sample(tmp_path, 'a', [BOX])
    sample(tmp_path, 'b', [BOX, other])
    _, read, problems = contents(voc, tmp_path)
    (line,) = warnings(problems)
    assert line.startswith(f"coordinates of VOC's boxes, read as {why}")
    assert found(read['train'])[2][2] == box
    assert found(read['train'])[0][2] == (READ if '1:' in why else [11, 21, 19, 39])


def test_decimals_are_positions_of_edges(tmp_path: Path) -> None:
    sample(tmp_path, boxes=[(10.25, 20.5, 30.125, 40), (10.5, 20.25, 11.75, 21)])
    _, read, problems = contents(voc, tmp_path)
    assert '2 of 2 boxes have decimals' in warnings(problems)[0]
    assert [box for *_, box in found(read['train'])] == [
        [10.25, 20.5, 19.875, 19.5],
        [10.5, 20.25, 1.25, 0.75],
    ]


def test_the_convention_is_that_of_all_splits(tmp_path: Path) -> None:
    sample(tmp_path, 'a', [(0, 0, 10, 10)])
    sample(tmp_path, 'b')
    write(tmp_path / 'ImageSets' / 'Main' / 'train.txt', 'a')
    write(tmp_path / 'ImageSets' / 'Main' / 'val.txt', 'b')
    assert found(contents(voc, tmp_path)[1]['val']) == [('b.jpg', 'ant', [11, 21, 19, 39])]


def test_flags_polygons_and_parts(tmp_path: Path) -> None:
    extra = '<difficult>1</difficult><truncated>0</truncated><part><name>head</name>' + bndbox((1, 1, 2, 2))
    polygon = '</part><polygon><x1>11</x1><y1>21</y1><x2>31</x2><y2>21</y2><x3>31</x3><y3>41</y3></polygon>'
    image(tmp_path / 'a.jpg')
    write(tmp_path / 'a.xml', xml('a.jpg', ('ant', BOX), extra=extra + polygon))
    _, read, _ = contents(voc, tmp_path)
    (annotation,) = read['train']['annotations']
    assert (annotation['difficult'], annotation['truncated'], annotation['iscrowd']) == (1, 0, 0)
    assert annotation['bbox'] == READ and annotation['area'] == 200
    assert annotation['segmentation'] == [[10, 20, 30, 20, 30, 40]]


@pytest.mark.parametrize(
    ('file', 'classes'),
    [(None, ['ant', 'bee', 'Zebra', 'über']), ('Zebra\nbee\nant\nüber\n', ['Zebra', 'bee', 'ant', 'über'])],
)
def test_order_of_classes(tmp_path: Path, file: str | None, classes: list[str]) -> None:
    for name, label in (('a', 'bee'), ('b', ' Zebra '), ('c', 'u\u0308ber'), ('d', 'ant')):
        image(tmp_path / f'{name}.jpg')
        write(tmp_path / f'{name}.xml', xml(f'{name}.jpg', (label, BOX)))
    if file:
        write(tmp_path / 'classes.txt', file)
    write(tmp_path / 'train.txt', 'a\nc\n')
    write(tmp_path / 'val.txt', 'b\nd\n')
    _, read, _ = contents(voc, tmp_path)
    for content in read.values():
        names = [category['name'] for category in content['categories']]
        assert names == (classes if file else sorted(classes))


def test_a_class_that_is_not_listed(tmp_path: Path) -> None:
    path = sample(tmp_path)
    write(tmp_path / 'classes.txt', 'bee\n')
    (line,) = fatal(contents(voc, tmp_path)[2])
    assert line == f'{path}, line 3: "ant" is none of the classes bee'


def test_images_are_those_of_the_files_name(tmp_path: Path) -> None:
    for name in ('a', 'b', 'other'):
        image(tmp_path / f'{name}.jpg')
    write(tmp_path / 'a.xml', xml('other.jpg', ('ant', BOX)))
    write(tmp_path / 'c.xml', xml('C:\\x\\b.jpg', ('ant', BOX)))
    orphan = write(tmp_path / 'd.xml', xml('d.jpg', ('ant', BOX)))
    _, read, problems = contents(voc, tmp_path)
    assert found(read['train']) == [('a.jpg', 'ant', READ), ('b.jpg', 'ant', READ)]
    assert warnings(problems)[1:] == [
        f'annotation files that name another image: {tmp_path / "a.xml"} is read for a.jpg, its filename is'
        ' "other.jpg"',
        f'annotation files without an image, ignored: {orphan} (its filename is "d.jpg")',
        f'images without an annotation file, left out: {tmp_path / "other.jpg"}',
    ]


def test_a_missing_image_is_not_that_of_another_folder(tmp_path: Path) -> None:
    for name in ('seqA/1', 'seqB/1', 'seqB/2'):
        image(tmp_path / 'JPEGImages' / f'{name}.jpg')
    for name in ('seqA/1', 'seqA/2', 'seqB/1', 'seqC/2'):  # there is no folder of images for the last
        write(tmp_path / 'Annotations' / f'{name}.xml', xml(f'{name[-1]}.jpg', ('ant', BOX)))
    _, read, problems = contents(voc, tmp_path)
    names = [record['file_name'] for record in read['train']['images']]
    assert names == ['seqA/1.jpg', 'seqB/1.jpg', 'seqB/2.jpg']
    missing = tmp_path / 'Annotations' / 'seqA' / '2.xml'
    said = f'annotation files without an image, ignored: {missing} (its filename is "2.jpg")'
    assert said in warnings(problems)


@pytest.mark.parametrize(
    ('size', 'orientation', 'message'),
    [
        (None, 1, None),
        ((0, 0), 1, None),
        ((80, 100), 1, 'height and width that are the wrong way round, exchanged'),
        ((80, 100), TURNED, None),
        ((100, 80), TURNED, 'give --ignore-exif'),
        ((200, 160), 1, 'a.jpg has 100×80 pixels, its annotations say 200×160'),
    ],
)
def test_sizes(tmp_path: Path, size: tuple[int, int] | None, orientation: int, message: str | None) -> None:
    image(tmp_path / 'a.jpg', orientation=orientation)
    write(tmp_path / 'a.xml', xml('a.jpg', ('ant', BOX), size=size))
    _, read, problems = contents(voc, tmp_path)
    lines = [*fatal(problems), *warnings(problems)[1:]]
    assert len(lines) == (message is not None) and (message or '') in ''.join(lines)
    if not fatal(problems):
        loaded = (100, 80) if orientation == TURNED else (80, 100)
        assert [(i['height'], i['width']) for i in read['train']['images']] == [loaded]


def test_swapped_sizes_with_boxes_that_need_them_are_refused(tmp_path: Path) -> None:
    image(tmp_path / 'a.jpg')
    write(tmp_path / 'a.xml', xml('a.jpg', ('ant', (1, 1, 70, 99)), size=(80, 100)))
    (line,) = fatal(contents(voc, tmp_path)[2])
    assert 'its annotations say 80×100' in line


@pytest.mark.parametrize(
    ('old', 'new', 'line', 'message'),
    [
        ('</bndbox></object>\n', '</bndbox>\n', 5, 'mismatched tag'),
        ('<xmin>12</xmin>', '<xmin>x</xmin>', 4, 'xmin of "bee" is "x"'),
        ('<xmin>12</xmin>', '<xmin>nan</xmin>', 4, 'xmin of "bee" is "nan"'),
        ('<xmin>12</xmin>', '', 4, 'xmin of "bee" is ""'),
        ('<name>bee</name>', '', 4, 'the object has no name'),
        (bndbox((12, 21, 30, 60)), '<robndbox/>', 4, '"bee" has no bndbox; rotated boxes'),
        ('<annotation>', '<!DOCTYPE a [<!ENTITY b "b">]><annotation>', None, 'it defines entities'),
    ],
)
def test_broken_files_name_the_line(
    tmp_path: Path, old: str, new: str, line: int | None, message: str
) -> None:
    sample(tmp_path, 'good')
    image(tmp_path / 'JPEGImages' / 'bad.jpg')
    text = xml('bad.jpg', ('ant', BOX), ('bee', (12, 21, 30, 60)))
    index = text.index(old) if '</object>' not in old else text.rindex(old)
    path = write(tmp_path / 'Annotations' / 'bad.xml', text[:index] + new + text[index + len(old) :])
    _, read, problems = contents(voc, tmp_path)
    (found_line,) = fatal(problems)
    assert found_line.startswith(f'{path}, line {line}: ' if line else f'{path}: ') and message in found_line
    assert [i['file_name'] for i in read['train']['images']] == ['good.jpg']


def test_empty_files_and_unreadable_images(tmp_path: Path) -> None:
    sample(tmp_path)
    empty = write(tmp_path / 'Annotations' / 'empty.xml', '')
    sample(tmp_path, 'broken')
    (tmp_path / 'JPEGImages' / 'broken.jpg').write_bytes(b'no image')
    lines = fatal(contents(voc, tmp_path)[2])
    assert len(lines) == 2 and lines[0].startswith(f'{empty}: it is empty')
    assert f'{tmp_path / "JPEGImages" / "broken.jpg"} cannot be read' in lines[1]


def test_degenerate_boxes(tmp_path: Path) -> None:
    path = sample(tmp_path, boxes=[(0, 5, 10, 20), (30, 60, 11, 21), (7, 5, 7, 20)])
    _, read, problems = contents(voc, tmp_path)
    assert [box for *_, box in found(read['train'])] == [[0, 5, 10, 15], [11, 21, 19, 39], [7, 5, 0, 15]]
    assert warnings(problems)[1:] == [
        'boxes whose corners are the wrong way round, exchanged:'
        f' {path}, line 4: "ant" from 30, 60 to 11, 21',
        f'objects that training leaves out: {path}, line 5: ant has the box [7.0, 5.0, 0.0, 15.0] and the'
        ' area 0: less than a pixel',
    ]


@pytest.mark.parametrize('encoding', ['utf-8', 'utf-16', 'gbk', 'latin-1'])
def test_encodings(tmp_path: Path, encoding: str) -> None:
    name = 'Größe' if encoding == 'latin-1' else '蚂蚁'
    image(tmp_path / 'a.jpg')
    declaration = '' if encoding == 'gbk' else f'<?xml version="1.0" encoding="{encoding}"?>'
    write(tmp_path / 'a.xml', declaration + xml('a.jpg', (name, BOX)), encoding)
    _, read, _ = contents(voc, tmp_path)
    assert [category['name'] for category in read['train']['categories']] == [name]


def test_entities_in_utf_16(tmp_path: Path) -> None:
    image(tmp_path / 'a.jpg')
    sample(tmp_path, 'b', images='.')
    text = xml('a.jpg', ('&b;', BOX)).replace('<annotation>', '<!DOCTYPE a [<!ENTITY b "x">]><annotation>')
    path = write(tmp_path / 'a.xml', f'<?xml version="1.0" encoding="utf-16"?>{text}', 'utf-16')
    (line,) = fatal(contents(voc, tmp_path)[2])
    assert line.startswith(f'{path}: it defines entities')


def test_other_xml_is_not_vocs(tmp_path: Path) -> None:
    image(tmp_path / 'a.jpg')
    write(tmp_path / 'a.xml', '<project/>')
    assert not list(voc.find(tmp_path)) and not list(voc.find(tmp_path / 'nowhere'))
    write(tmp_path / 'b.xml', xml('a.jpg'))
    _, read, problems = contents(voc, tmp_path)
    assert f'XML files that are no VOC annotations, ignored: {tmp_path / "a.xml"}' in warnings(problems)
    assert len(read['train']['images']) == 1
