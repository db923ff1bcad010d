"""Pairing images with label maps, and reading them."""

import os
import struct
import zlib
from io import BytesIO
from pathlib import Path

import cv2
import numpy as np
import pytest
from mmseg.datasets.transforms import LoadAnnotations
from PIL import Image

from crossformer_mm.data.label_files import (
    find_pairs,
    label_map_header,
    listed_pairs,
    png_names,
    read_label_map,
    unpaired,
    values_of_classes,
    write_label_map,
)
from crossformer_mm.utils.errors import UserError
from crossformer_mm.utils.files import save_text

VALUES = np.array([[0, 1, 2], [3, 200, 255]], np.uint8)


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def test_pairs_have_the_same_names_in_the_same_subfolders(tmp_path: Path) -> None:
    images, maps = tmp_path / 'images', tmp_path / 'maps'
    touch(images, 'b.JPG', 'a.v2.png', 'town/a.jpeg', '.hidden.jpg', 'notes.txt')
    touch(maps, 'b.png', 'a.v2.bmp', 'town/a.tif', '._b.png', 'legend.json')
    pairs = find_pairs(images, maps)
    assert pairs == [
        (images / 'a.v2.png', maps / 'a.v2.bmp'),
        (images / 'b.JPG', maps / 'b.png'),
        (images / 'town' / 'a.jpeg', maps / 'town' / 'a.tif'),
    ]
    assert unpaired(pairs, maps) == []


def test_lists_name_images_of_any_name(tmp_path: Path) -> None:
    images, maps = tmp_path / 'images', tmp_path / 'maps'
    names = [' first', 'last ', 'b\x0b\u2028c', os.fsdecode(b'caf\xe9'), 'plain']
    touch(images, *(f'{name}.jpg' for name in names))
    touch(maps, *(f'{name}.png' for name in names))
    pairs = find_pairs(images, maps)
    written = save_text(''.join(f'{name}\n' for name in names), tmp_path / 'list.txt')
    by_hand = tmp_path / 'own.txt'
    by_hand.write_bytes(b'plain \r\n\r\n')
    assert [image.stem for image, _ in listed_pairs(pairs, images, written)] == names
    assert [image.stem for image, _ in listed_pairs(pairs, images, by_hand)] == ['plain']


def test_files_without_partners_are_named(tmp_path: Path) -> None:
    images, maps = tmp_path / 'images', tmp_path / 'maps'
    touch(images, 'a.jpg', 'b.jpg', 'b.png')
    touch(maps, 'b.png', 'c.png')
    assert [problem.what for problem in unpaired(find_pairs(images, maps), maps)] == [
        f'{images}/a.jpg has no label map: there is no {maps}/a.png',
        f'{images}/b.png and {images}/b.jpg have the same label map, {maps}/b.png',
        f'{maps}/c.png has no image of the same name',
    ]


def test_other_files_may_lie_beside_maps_of_one_ending(tmp_path: Path) -> None:
    touch(tmp_path, 'a_labels.png', 'a_colours.png')
    pairs = [(Path('a.jpg'), tmp_path / 'a_labels.png')]
    assert unpaired(pairs, tmp_path, '_labels.png') == []


WAYS = {
    'same name': (['1.jpg', 't/2.jpg'], ['1.png', 't/2.png'], ['1.png', 't/2.png']),
    'case': (['IMG_1.JPG', 'b.jfif'], ['img_1.PNG', 'B.tif'], ['img_1.PNG', 'B.tif']),
    'accents': (['caf\u00e9.jpe', 'b.webp'], ['cafe\u0301.png', 'b.png'], ['b.png', 'cafe\u0301.png']),
    'ending': (
        ['1.png', '11.png', 't/2.png'],
        ['1_L.png', '11_L.png', 't/2_L.png'],
        ['1_L.png', '11_L.png', 't/2_L.png'],
    ),
    'beginning': (['1.png', '2.png'], ['mask_1.png', 'mask_2.png'], ['mask_1.png', 'mask_2.png']),
    'other ending': (
        ['a_1_leftImg8bit.png', 'a_2_leftImg8bit.png'],
        ['a_1_gtFine_labelIds.png', 'a_2_gtFine_labelIds.png'],
        ['a_1_gtFine_labelIds.png', 'a_2_gtFine_labelIds.png'],
    ),
    'an ending, one missing': (
        ['1.png', '2.png', '3.png'],
        ['1_m.png', '3_m.png'],
        ['1_m.png', None, '3_m.png'],
    ),
    'two endings': (['1.png', '2.png'], ['1_a.png', '1_b.png', '2_a.png', '2_b.png'], [None, None]),
    'two of one name but for case': (
        ['a1.png', 'b.png'],
        ['A1.png', 'B.png', 'b.png', 'A1.bmp'],
        ['A1.bmp', 'b.png'],
    ),
    'case, twice': (['A.png', 'a.png'], ['a.png'], [None, 'a.png']),
    'case, ambiguous': (['Ab.png'], ['AB.png', 'ab.png'], [None]),
    'numbers': (['1.png'], ['1_2.png'], [None]),
    'others match': (['1.png', '2.png'], ['1.png', '2_m.png'], ['1.png', None]),
}


@pytest.mark.parametrize('way', WAYS)
def test_names_that_differ_are_paired_where_one_file_can_be_meant(tmp_path: Path, way: str) -> None:
    images, maps, expected = WAYS[way]
    touch(tmp_path / 'images', *images)
    touch(tmp_path / 'maps', *maps)
    pairs = find_pairs(tmp_path / 'images', tmp_path / 'maps')
    found = [label_map if label_map.exists() else None for _, label_map in pairs]
    assert found == [name and tmp_path / 'maps' / name for name in expected]


def test_near_names_are_in_the_error(tmp_path: Path) -> None:
    images, maps = tmp_path / 'images', tmp_path / 'maps'
    names = [f'street_{i}' for i in range(30)]
    touch(images, *(f'{name}.png' for name in names))
    touch(maps, *(f'{name}_{kind}.png' for name in names for kind in ('color', 'labelIds')), 'sky.png')
    lines = [problem.what for problem in unpaired(find_pairs(images, maps), maps)]
    assert lines[1] == (
        f'{images}/street_1.png has no label map: there is no {maps}/street_1.png,'
        ' but street_1_color.png, street_1_labelIds.png'
    )
    assert len(lines) == 30 + 61


def test_images_have_any_usual_ending_or_none(tmp_path: Path) -> None:
    images, maps = tmp_path / 'images', tmp_path / 'maps'
    endings = ['.jfif', '.jpe', '.JPG', '.webp', '.tif', '.TIFF', '.bmp', '']
    for folder in (images, maps):
        folder.mkdir()
        for i, ending in enumerate(endings):
            Image.fromarray(VALUES).save(folder / f'{i}{ending}', 'PNG')
        for name in (
            'README',
            'notes.txt',
            '.DS_Store',
            'Thumbs.db',
            'depth.npy',
            'legend.json',
            'a.jpg.part',
        ):
            (folder / name).write_bytes(b'no image')
        (folder / 'loop').symlink_to(folder)
        (folder / '.ipynb_checkpoints').mkdir()
        touch(folder / '.ipynb_checkpoints', '1.jpg')
        os.mkfifo(folder / 'pipe.png')
    pairs = find_pairs(images, maps)
    assert pairs == [(images / f'{i}{ending}', maps / f'{i}{ending}') for i, ending in enumerate(endings)]
    assert unpaired(pairs, maps) == []


def grey_png(bits: int, rows: bytes) -> bytes:
    """A PNG file of 3×2 grey pixels with fewer than 8 bits; each row begins with a zero byte."""
    png = cv2.imencode('.png', VALUES)[1].tobytes()
    start = png[:12] + b'IHDR' + struct.pack('>IIBBBBB', 3, 2, bits, 0, 0, 0, 0)
    chunks = [start[12:], b'IDAT' + zlib.compress(rows), b'IEND']
    return png[:8] + b''.join(
        struct.pack('>I', len(c) - 4) + c + struct.pack('>I', zlib.crc32(c)) for c in chunks
    )


def saved(values: np.ndarray, form: str = 'PNG', palette: bool = False, **options: object) -> bytes:
    image = Image.fromarray(values)
    if palette:
        image.putpalette(np.random.default_rng(0).integers(0, 256, 768).tolist())
    image.save(buffer := BytesIO(), form, **options)
    return buffer.getvalue()


TURN = Image.Exif()
TURN[0x0112] = 6
LARGE = VALUES.repeat(8, 0).repeat(8, 1)
READ = {
    'grey': (saved(VALUES), VALUES),
    'palette': (saved(VALUES, palette=True), VALUES),
    'palette with transparency': (saved(VALUES, palette=True, transparency=1), VALUES),
    'grey with a transparent value': (saved(VALUES, transparency=1), VALUES),
    'palette of 4 bits': (saved(VALUES % 16, palette=True, bits=4), VALUES % 16),
    '1 bit': (grey_png(1, b'\0\x40\0\xa0'), [[0, 1, 0], [1, 0, 1]]),
    'bmp': (saved(VALUES, 'BMP'), VALUES),
    '16 bits': (saved(VALUES.astype(np.uint16)), VALUES),
    '32 bits': (saved(VALUES.astype(np.int32), 'TIFF'), VALUES),
    'whole floats': (saved(VALUES.astype(np.float32), 'TIFF'), VALUES),
    'lossless TIFF': (saved(VALUES, 'TIFF', compression='tiff_lzw'), VALUES),
    'EXIF in PNG': (saved(VALUES, exif=TURN), VALUES),
    'EXIF in TIFF': (saved(VALUES, 'TIFF', tiffinfo={0x0112: 6}), np.rot90(VALUES, -1)),
    'EXIF that is damaged': (saved(VALUES, exif=b'Exif\0\0nonsense'), VALUES),
}
REFUSED = {
    'JPEG': (saved(LARGE, 'JPEG', quality=100), 'is a JPEG file'),
    'JPEG in TIFF': (saved(LARGE, 'TIFF', compression='jpeg'), 'is a JPEG file'),
    'WebP': (saved(VALUES, 'WEBP'), r'not a label map but a colour image \(RGB\)'),
    'grey in three channels': (saved(VALUES[..., None].repeat(3, 2)), r'a colour image \(RGB\)'),
    'grey with alpha': (saved(VALUES[..., None].repeat(2, 2)), r'a colour image \(LA\)'),
    'fractions': (saved(VALUES + np.float32(0.5), 'TIFF'), r'an image of fractions \(F\)'),
    'grey of 4 bits': (
        grey_png(4, b'\0\x01\x20\0\x39\xf0'),
        'less than 8 bits, whose numbers are multiplied',
    ),
    'grey of 2 bits': (grey_png(2, b'\0\x18\0\xe4'), 'less than 8 bits, whose numbers are multiplied'),
    'one row': (saved(VALUES[:1]), 'is 3×1: MMSegmentation reads no label maps with a side of 1 pixel'),
    'one pixel': (saved(VALUES[:1, :1]), 'is 1×1: '),
    'not grey': (saved(np.zeros((2, 3, 4), np.uint8)), r'a colour image \(RGBA\)'),
}


@pytest.mark.parametrize('kind', READ)
def test_a_map_is_read_as_training_does(tmp_path: Path, kind: str) -> None:
    content, expected = READ[kind]
    path = tmp_path / 'a.png'
    path.write_bytes(content)
    values = read_label_map(path)
    np.testing.assert_array_equal(values, expected)
    np.testing.assert_array_equal(values, toolbox_reads(path))
    assert label_map_header(path) == (*values.shape, kind == 'EXIF in PNG')


@pytest.mark.parametrize('kind', REFUSED)
def test_what_training_would_not_read_as_it_was_written_is_refused(tmp_path: Path, kind: str) -> None:
    content, reason = REFUSED[kind]
    path = tmp_path / 'a.png'
    path.write_bytes(content)
    with pytest.raises(UserError, match=reason) as raised:
        read_label_map(path)
    assert str(raised.value).startswith(f'{path} ')


def toolbox_reads(path: Path) -> np.ndarray:
    load = LoadAnnotations(reduce_zero_label=False)
    start = {'seg_map_path': str(path), 'reduce_zero_label': False, 'seg_fields': []}
    return load(start)['gt_seg_map']


def test_label_maps_are_written_as_deep_as_needed(tmp_path: Path) -> None:
    for values in (VALUES, np.full((2, 2), 300)):
        write_label_map(tmp_path / 'a.png', values)
        np.testing.assert_array_equal(read_label_map(tmp_path / 'a.png'), values)
    assert cv2.imread(str(tmp_path / 'a.png'), cv2.IMREAD_UNCHANGED).dtype == np.uint16


def test_predictions_are_written_with_the_values_and_names_of_the_dataset() -> None:
    meta = {'classes': ('a', 'b'), 'reduce_zero_label': True, 'label_map': {0: 255, 1: 1, 5: 0}}
    assert values_of_classes(meta).tolist() == [6, 2]
    names = {
        '/data/images/town/a.jpg': 'town/a.png',
        '/elsewhere/a.jpg': 'a.png',
        '/data/images/a.png': 'a-2.png',
        '/data/images/A.webp': 'A-3.png',
        '/data/images/../other/town/b.c': 'b.png',
    }
    assert png_names(names, '/data/images') == names
    assert png_names(['images/x/1.jpg', 'images/x/1.jpg'], 'images') == {'images/x/1.jpg': 'x/1.png'}


@pytest.mark.parametrize('content', [b'', b'no image', None], ids=['empty', 'other', 'cut off'])
def test_broken_maps_are_named(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / 'a.png'
    cv2.imwrite(str(path), np.random.default_rng(0).integers(0, 255, (50, 50), np.uint8))
    path.write_bytes(path.read_bytes()[:1000] if content is None else content)
    with pytest.raises(UserError, match=r'a\.png cannot be read as a label map'):
        read_label_map(path)
