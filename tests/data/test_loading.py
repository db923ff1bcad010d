"""The file that an unreadable image or label map is reported by, whatever its name and whoever read it."""

import zlib
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import cv2
import numpy as np
import pytest
from mmcv.transforms import LoadImageFromFile
from mmengine.config import Config
from mmseg.datasets.transforms import LoadAnnotations
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from crossformer_mm.data.loading import unreadable_images_named
from crossformer_mm.utils.errors import UserError


def load_image(path: str) -> np.ndarray:
    return LoadImageFromFile()({'img_path': path})['img']


def load_map(path: str) -> np.ndarray:
    start = {'seg_map_path': path, 'reduce_zero_label': False, 'seg_fields': []}
    return LoadAnnotations()(start)['gt_seg_map']


class Files(Dataset):
    """Loads one file by a transform of the toolboxes."""

    def __init__(self, load: Callable[[str], np.ndarray], path: Path) -> None:
        self.load = load
        self.path = path

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> np.ndarray:
        return self.load(str(self.path))


def png(width: int, height: int) -> bytes:
    """A PNG file whose header says that it has so many pixels, without their content."""
    Image.new('L', (1, 1)).save(buffer := BytesIO(), 'PNG')
    content = bytearray(buffer.getvalue())
    content[16:24] = width.to_bytes(4, 'big') + height.to_bytes(4, 'big')
    content[29:33] = zlib.crc32(content[12:29]).to_bytes(4, 'big')
    return bytes(content)


NOISE = cv2.imencode('.png', np.random.default_rng(0).integers(0, 255, (50, 50), np.uint8))[1].tobytes()
BROKEN = {
    'missing': (None, 'no such file', r'cannot be read as a label map \(No such file'),
    'empty': (b'', 'cannot be read as an image', 'cannot be read as a label map'),
    'text': (b'no image', 'cannot be read as an image', 'cannot be read as a label map'),
    'cut off': (NOISE[:1000], 'cannot be read as an image', 'cannot be read as a label map'),
    'huge': (png(40_000, 40_000), 'more pixels than OpenCV reads', 'Pillow, .*, refuses so many pixels: '),
}


@pytest.mark.parametrize('workers', [0, 1])
@pytest.mark.parametrize('load', [load_image, load_map])
@pytest.mark.parametrize('kind', BROKEN)
def test_the_file_is_named(
    tmp_path: Path, kind: str, load: Callable[[str], np.ndarray], workers: int
) -> None:
    content, of_image, of_map = BROKEN[kind]
    for name, other in (('.gitkeep', b''), ('0.png', NOISE), ('1.txt', b'text')):
        (tmp_path / name).write_bytes(other)
    for name in ("it's.jpg", 'a: b.jpg'):
        path = tmp_path / name
        if content is not None:
            path.write_bytes(content)
        prefix = {'img' if load is load_image else 'seg_map_path': str(tmp_path)}
        cfg = Config({'train_dataloader': {'dataset': {'data_prefix': prefix}}})
        batches = iter(DataLoader(Files(load, path), num_workers=workers))
        reason = of_image if load is load_image else of_map
        with pytest.raises(UserError, match=reason) as raised, unreadable_images_named(cfg):
            next(batches)
        assert str(raised.value).startswith(f'{path}')
        assert '\n' not in str(raised.value)
        path.unlink(missing_ok=True)
        if workers:
            batches._shutdown_workers()  # the garbage collector would wait five seconds for each


def test_other_errors_of_the_loaders_stay_as_they_are(tmp_path: Path) -> None:
    (tmp_path / 'a.png').write_bytes(NOISE)
    start = {'seg_map_path': str(tmp_path / 'a.png'), 'reduce_zero_label': False, 'seg_fields': []}
    with pytest.raises(AssertionError, match='reduce_zero_label'), unreadable_images_named(Config()):
        LoadAnnotations(reduce_zero_label=True)(start)
