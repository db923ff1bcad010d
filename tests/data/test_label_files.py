"""Pairing images with label maps, and reading them."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from mmcv.transforms import LoadImageFromFile
from mmseg.datasets.transforms import LoadAnnotations
from PIL import Image

from crossformer_mm.data.images import image_size
from crossformer_mm.data.label_files import (
    find_pairs,
    png_names,
    read_label_map,
    unpaired,
    values_of_classes,
    write_label_map,
)
from crossformer_mm.utils.errors import UserError

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


@pytest.mark.parametrize('name', ['grey.png', 'palette.png', 'grey.bmp', 'deep.png', 'bits.png'])
def test_a_map_is_read_as_training_does(tmp_path: Path, name: str) -> None:
    expected = {'deep.png': VALUES.astype(np.uint16), 'bits.png': VALUES > 1}.get(name, VALUES)
    image = Image.fromarray(expected)
    if name == 'palette.png':
        image.putpalette(np.random.default_rng(0).integers(0, 256, 768).tolist())
    image.save(tmp_path / name)
    values = read_label_map(tmp_path / name)
    np.testing.assert_array_equal(values, expected)
    np.testing.assert_array_equal(values, toolbox_reads(tmp_path / name))


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


@pytest.mark.parametrize(
    ('mode', 'name'), [('RGB', 'a.png'), ('RGBA', 'a.png'), ('LA', 'a.png'), ('F', 'a.tif')]
)
def test_pictures_in_colours_are_no_label_maps(tmp_path: Path, mode: str, name: str) -> None:
    Image.new(mode, (3, 2)).save(tmp_path / name)
    with pytest.raises(UserError, match=rf'{name} is not a label map but a colour image \({mode}\)'):
        read_label_map(tmp_path / name)


@pytest.mark.parametrize('content', [b'', b'no image', None], ids=['empty', 'other', 'cut off'])
def test_broken_maps_are_named(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / 'a.png'
    cv2.imwrite(str(path), np.random.default_rng(0).integers(0, 255, (50, 50), np.uint8))
    path.write_bytes(path.read_bytes()[:1000] if content is None else content)
    with pytest.raises(UserError, match=r'a\.png cannot be read as a label map'):
        read_label_map(path)


@pytest.mark.parametrize('orientation', range(1, 9))
def test_size_of_photographs_that_are_turned(tmp_path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.new('RGB', (30, 20)).save(tmp_path / 'a.jpg', exif=exif)
    loaded = LoadImageFromFile()({'img_path': str(tmp_path / 'a.jpg')})['img']
    assert image_size(tmp_path / 'a.jpg') == loaded.shape[:2]


def test_size_of_what_pillow_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', 100)
    Image.new('RGB', (30, 20)).save(tmp_path / 'large.png')
    assert image_size(tmp_path / 'large.png') == (20, 30)


def test_size_of_no_image(tmp_path: Path) -> None:
    (tmp_path / 'a.jpg').write_bytes(b'no image')
    for name, reason in (('a.jpg', 'cannot be read as an image'), ('gone.jpg', 'no such file')):
        with pytest.raises(UserError, match=reason):
            image_size(tmp_path / name)
