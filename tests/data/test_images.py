"""Images as the reader of the runs, OpenCV by mmcv, reads them: sizes, EXIF data, and what is broken."""

import os
import struct
import sys
import zlib
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import cv2
import numpy as np
import pytest
from mmcv.transforms import LoadImageFromFile
from PIL import Image

from crossformer_mm.data.images import (
    NoImageError,
    image_header,
    image_problems,
    problems_of_images,
    quiet_decoders,
    read_image,
    turned_images,
)

PIXELS = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
PICTURE = Image.fromarray(PIXELS)
DEEP = np.random.default_rng(1).integers(0, 4096, (20, 30, 3)).astype(np.uint16)  # 12 bits
SETTINGS = ((False, 'color'), (True, 'color_ignore_orientation'))


def file(form: str, picture: Image.Image = PICTURE, **options: object) -> bytes:
    picture.save(buffer := BytesIO(), form, **options)
    return buffer.getvalue()


def encoded(suffix: str, pixels: np.ndarray) -> bytes:
    return cv2.imencode(suffix, pixels)[1].tobytes()


def exif(orientation: int) -> bytes:
    data = Image.Exif()
    data[0x0112] = orientation
    return data.tobytes()


def chunk(kind: bytes, data: bytes, checksum: int | None = None) -> bytes:
    """A chunk of a PNG file."""
    checksum = zlib.crc32(kind + data) if checksum is None else checksum
    return struct.pack('>I', len(data)) + kind + data + struct.pack('>I', checksum)


def segment(data: bytes) -> bytes:
    """A segment of a JPEG file for EXIF or XMP."""
    return b'\xff\xe1' + struct.pack('>H', len(data) + 2) + data


JPEG, PNG, BMP = file('JPEG'), file('PNG'), file('BMP')
XMP = segment(b'http://ns.adobe.com/xap/1.0/\0<rdf:Description tiff:Orientation="6"/>')
TURNED: dict[str, Callable[[int], bytes]] = {
    'JPEG': lambda n: file('JPEG', exif=exif(n)),
    'JPEG, XMP before': lambda n: JPEG[:2] + XMP + segment(exif(n)) + JPEG[2:],
    'JPEG, XMP behind': lambda n: JPEG[:2] + segment(exif(n)) + XMP + JPEG[2:],
    'JPEG, XMP alone': lambda n: JPEG[:2] + XMP + JPEG[2:],
    'JPEG, nonsense': lambda n: JPEG[:2] + segment(b'Exif\0\0nonsense') + segment(exif(n)) + JPEG[2:],
    'PNG': lambda n: file('PNG', exif=exif(n)),
    'PNG, behind the pixels': lambda n: PNG[:-12] + chunk(b'eXIf', exif(n)[6:]) + PNG[-12:],
    'PNG, long text': lambda n: file('PNG', exif=exif(n))[:-12] + LONG_TEXT + PNG[-12:],
    'WebP': lambda n: file('WEBP', exif=exif(n), lossless=True),
    'TIFF': lambda n: file('TIFF', tiffinfo={0x0112: n}),
}
LONG_TEXT = chunk(b'zTXt', b'key\0\0' + zlib.compress(bytes(1_100_000)))
READABLE = {
    'JPEG 40×7': file('JPEG', Image.new('RGB', (40, 7))),
    'JPEG 1×1': file('JPEG', Image.new('RGB', (1, 1))),
    'JPEG, progressive': file('JPEG', progressive=True),
    'JPEG, CMYK': file('JPEG', PICTURE.convert('CMYK')),
    'JPEG, grey': file('JPEG', PICTURE.convert('L')),
    'JPEG, trailing bytes': JPEG + b'trailing' * 100,
    'JPEG, bytes before the end': JPEG[:-2] + b'\0\0\0' + JPEG[-2:],
    'MPO': file('MPO', save_all=True, append_images=[PICTURE]),
    'PNG 1×1': file('PNG', Image.new('RGB', (1, 1))),
    'PNG, long text': PNG[:33] + LONG_TEXT + PNG[33:],
    'PNG, wrong checksum of a text': PNG[:33] + chunk(b'tEXt', b'key\0value', checksum=1) + PNG[33:],
    'PNG, wrong colour profile': file('PNG', icc_profile=bytes(200)),
    'PNG, trailing bytes': PNG + b'trailing' * 100,
    'PNG, 1 bit': file('PNG', PICTURE.convert('1')),
    'PNG, palette': file('PNG', PICTURE.convert('P'), transparency=0),
    'PNG, grey with transparency': file('PNG', PICTURE.convert('LA')),
    'PNG, 16 bits': encoded('.png', DEEP * 16),
    'PNG, animated': file('PNG', save_all=True, append_images=[PICTURE.rotate(180)]),
    'WebP, animated': file('WEBP', save_all=True, append_images=[PICTURE.rotate(180)]),
    'BMP, top row first': BMP[:22] + struct.pack('<i', -20) + BMP[26:],
    'BMP, without a length': BMP[:2] + bytes(4) + BMP[6:34] + bytes(4) + BMP[38:],
    'TIFF, several pages': file('TIFF', save_all=True, append_images=[PICTURE.resize((9, 9))]),
    'TIFF, JPEG inside': file('TIFF', compression='jpeg'),
    'TIFF, 16 bits': encoded('.tiff', DEEP * 16),
    'JPEG 2000': file('JPEG2000'),
    'PPM': file('PPM'),
}
UNREADABLE = {
    'empty': b'',
    'text': b'no image',
    'JPEG, one byte missing': JPEG[:-1],
    'JPEG, half': JPEG[: len(JPEG) // 2],
    'progressive JPEG, half': READABLE['JPEG, progressive'][:-400],
    'PNG, half': PNG[: len(PNG) // 2],
    'PNG, wrong checksum of the pixels': PNG.replace(b'IDAT', b'IDAT', 1)[:-16] + bytes(4) + PNG[-12:],
    'BMP, half': BMP[: len(BMP) // 2],
    'TIFF, half': file('TIFF')[:900],
    'Targa, which OpenCV does not read': file('TGA'),
    'TIFF of 32-bit integers': file('TIFF', Image.fromarray(np.ones((20, 30), np.int32))),
}


def loaded(path: Path, flag: str) -> np.ndarray:
    return LoadImageFromFile(color_type=flag)({'img_path': str(path)})['img']


@pytest.mark.parametrize('kind', TURNED)
def test_exif_is_followed_exactly_where_training_follows_it(tmp_path: Path, kind: str) -> None:
    """Which formats OpenCV turns depends on its version, so that the expected values are what mmcv loads."""
    for orientation in range(1, 9):
        path = tmp_path / f'{orientation}.jpg'
        path.write_bytes(TURNED[kind](orientation))
        images = {ignored: loaded(path, flag) for ignored, flag in SETTINGS}
        for ignored, image in images.items():
            np.testing.assert_array_equal(read_image(path, ignored), image)
            turned = not np.array_equal(image, images[True])
            assert image_header(path, ignored) == (*image.shape[:2], turned)
            assert image_problems(path, image.shape[:2], ignored) == []
    paths = sorted(tmp_path.iterdir())
    assert turned_images(paths) == [path for path in paths if image_header(path).turned]
    if kind in ('JPEG', 'PNG', 'PNG, behind the pixels'):  # in every version
        assert turned_images(paths) == paths[1:]


@pytest.mark.parametrize('kind', READABLE)
def test_what_training_reads_is_not_called_broken(
    tmp_path: Path, kind: str, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / 'a').write_bytes(READABLE[kind])
    with quiet_decoders():
        image = loaded(tmp_path / 'a', 'color')
    assert list(problems_of_images([tmp_path / 'a'], [image.shape[:2]])) == [[]]
    assert capfd.readouterr().err == '', 'without the complaints of the libraries'
    assert image_header(tmp_path / 'a') == (*image.shape[:2], False)


@pytest.mark.parametrize('kind', UNREADABLE)
def test_what_training_cannot_read_is_named(tmp_path: Path, kind: str) -> None:
    (tmp_path / 'a').write_bytes(UNREADABLE[kind])
    with quiet_decoders(), pytest.raises((AssertionError, cv2.error)):
        loaded(tmp_path / 'a', 'color')
    [[problem]] = problems_of_images([tmp_path / 'a'], [(20, 30)])
    assert (problem.kind, problem.fatal) == ('images that cannot be read', True)
    assert problem.what.startswith(f'{tmp_path}/a ')
    assert 'cannot be read as an image' in problem.what


@pytest.mark.parametrize('kind', ['empty', 'text', 'Targa', 'TIFF of 32-bit integers'])
def test_what_headers_show_to_be_unreadable_is_found_without_decoding(tmp_path: Path, kind: str) -> None:
    [content] = [content for name, content in UNREADABLE.items() if name.startswith(kind)]
    (tmp_path / 'a').write_bytes(content)
    with quiet_decoders(), pytest.raises(NoImageError, match='cannot be read as an image'):
        image_header(tmp_path / 'a')


def test_paths_that_are_no_files(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / 'pipe')
    names = {'gone': 'no such file', 'pipe': 'neither a file nor', 'x' * 300: 'File name too long'}
    for name, reason in names.items():
        for read in (read_image, image_header):
            with pytest.raises(NoImageError, match=reason):
                read(tmp_path / name)


def test_sizes_that_differ_from_the_annotations(tmp_path: Path) -> None:
    for orientation in (1, 6):
        (tmp_path / f'{orientation}.jpg').write_bytes(TURNED['JPEG'](orientation))
    [plain] = image_problems(tmp_path / '1.jpg', (30, 20))
    assert plain.what == f'{tmp_path}/1.jpg has 30×20 pixels, its annotations say 20×30'
    [turned] = image_problems(tmp_path / '6.jpg', (20, 30))
    assert turned.what.startswith(
        f'{tmp_path}/6.jpg has 20×30 pixels, its annotations say 30×20; EXIF turns it'
    )
    assert turned.what.endswith('give --ignore-exif')
    assert image_problems(tmp_path / '6.jpg', (20, 30), ignore_exif=True) == []


def test_large_and_thin_images(tmp_path: Path) -> None:
    """Pillow's own limit is 179 million pixels."""
    header = chunk(b'IHDR', struct.pack('>IIBBBBB', 20_000, 10_000, 8, 0, 0, 0, 0))
    (tmp_path / 'large.png').write_bytes(PNG[:8] + header + PNG[33:])
    assert image_header(tmp_path / 'large.png') == (10_000, 20_000, False)
    Image.new('L', (3000, 2)).save(tmp_path / 'thin.png')
    [problem] = image_problems(tmp_path / 'thin.png', (2, 3000))
    assert problem.what == f'{tmp_path}/thin.png has 3000×2 pixels, of which resizing may leave none'


@pytest.mark.parametrize('suffix', ['.png', '.tiff', '.pfm'])
def test_twelve_bits_in_a_file_of_sixteen_are_nearly_black(tmp_path: Path, suffix: str) -> None:
    """So are fractions up to 1, in a file of floats."""
    path = tmp_path / f'a{suffix}'
    path.write_bytes(encoded(suffix, DEEP if suffix != '.pfm' else np.float32(DEEP / 4096)))
    [problem] = image_problems(path, (20, 30))
    assert not problem.fatal
    assert f'is read with values up to {loaded(path, "color").max()} of 255' in problem.what
    (tmp_path / 'dark.png').write_bytes(encoded('.png', PIXELS // 20))  # 8 bits
    assert image_problems(tmp_path / 'dark.png', (20, 30)) == []


def test_progress_is_still_seen_while_decoders_are_silenced(capfd: pytest.CaptureFixture[str]) -> None:
    own, sys.stderr = sys.stderr, sys.__stderr__
    try:
        with quiet_decoders():
            os.write(2, b'libpng warning')
            print('progress', file=sys.stderr)
        print('later', file=sys.stderr, flush=True)
    finally:
        sys.stderr = own
    assert capfd.readouterr().err == 'progress\nlater\n'
