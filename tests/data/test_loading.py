"""The file that an unreadable image is reported by, whatever its name and whoever read it."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from mmcv.transforms import LoadImageFromFile
from mmengine.config import Config
from torch.utils.data import DataLoader, Dataset

from crossformer_mm.data.loading import unreadable_images_named
from crossformer_mm.utils.errors import UserError


class Images(Dataset):
    """Loads one file by mmcv."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> np.ndarray:
        return LoadImageFromFile()({'img_path': str(self.path)})['img']


@pytest.mark.parametrize('workers', [0, 1])
@pytest.mark.parametrize('name', ['a.jpg', "it's.jpg", 'a: b.jpg'])
@pytest.mark.parametrize('content', [None, b'', b'no image'])
def test_the_file_is_named(tmp_path: Path, content: bytes | None, name: str, workers: int) -> None:
    (tmp_path / '.gitkeep').touch()
    cv2.imwrite(str(tmp_path / '0.png'), np.zeros((2, 2, 3), np.uint8))
    if content is not None:
        (tmp_path / name).write_bytes(content)
    cfg = Config({'train_dataloader': {'dataset': {'data_prefix': {'img': str(tmp_path)}}}})
    with pytest.raises(UserError) as raised, unreadable_images_named(cfg):
        next(iter(DataLoader(Images(tmp_path / name), num_workers=workers)))
    assert str(raised.value).startswith(f'{tmp_path / name} cannot be read as an image; ')
