"""Prediction in tiles: the grid, merged objects, and averaged scores."""

from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from export_models import image_of
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

from crossformer_mm.data.datasets import set_num_classes
from crossformer_mm.deploy import tiles as tiles_module
from crossformer_mm.deploy.merging import merge_objects
from crossformer_mm.deploy.predictions import Objects
from crossformer_mm.deploy.tiles import TiledModel, grid
from crossformer_mm.engine.toolbox_model import ToolboxModel
from crossformer_mm.utils.errors import UserError

SIDE = 40
SIZE = (100, 130)
SIZES = [(150, 190), (64, 64), (40, 100)]


class Patches:
    """A detector of patches of one colour; the class is the channel, and the score grows with the area."""

    task = 'instance segmentation'
    classes = ('blue', 'green', 'red')

    def __init__(self, most: int = 100) -> None:
        self.most = most
        self.shapes: list[tuple[int, ...]] = []

    def predict(self, images: Sequence[np.ndarray]) -> list[Objects]:
        if len(images) > self.most:
            raise MemoryError
        self.shapes += [image.shape for image in images]
        return list(map(self._objects, images))

    def _objects(self, image: np.ndarray) -> Objects:
        masks = [
            (image[..., label] == value, label)
            for label in range(3)
            for value in np.unique(image[..., label])
            if value
        ]
        masks.sort(key=lambda pair: -pair[0].sum())
        boxes = []
        for mask, _ in masks:
            ys, xs = np.nonzero(mask)
            boxes.append([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1])
        scores = np.array([mask.sum() / mask.size for mask, _ in masks], np.float32)
        labels = np.array([label for _, label in masks], int)
        return Objects(
            np.array(boxes, np.float32).reshape(-1, 4), scores, labels, [mask for mask, _ in masks]
        )


def painted(*patches: tuple[int, int, int, int, int]) -> np.ndarray:
    """An image with patches of different brightness: channel, left, top, right and bottom."""
    image = np.zeros((*SIZE, 3), np.uint8)
    for number, (label, left, top, right, low) in enumerate(patches, 1):
        image[top:low, left:right, label] = 50 * number
    return image


@pytest.mark.parametrize('size', [SIZE, (40, 41), (39, 200), (40, 40), (1, 1), (1000, 33)])
@pytest.mark.parametrize('overlap', [0, 0.2, 0.5, 0.9])
def test_tiles_cover_the_image_and_overlap(size: tuple[int, int], overlap: float) -> None:
    covered = np.zeros(size, int)
    tiles = grid(size, SIDE, overlap)
    for rows, columns in tiles:
        assert 0 <= rows.start < rows.stop <= size[0] and 0 <= columns.start < columns.stop <= size[1]
        assert (rows.stop - rows.start, columns.stop - columns.start) == tuple(np.minimum(size, SIDE))
        covered[rows, columns] += 1
    assert covered.all()
    assert len(set(map(str, tiles))) == len(tiles)
    for axis in (0, 1):
        places = sorted({(tile[axis].start, tile[axis].stop) for tile in tiles})
        common = [here[1] - there[0] for here, there in pairwise(places)]
        assert all(shared == SIDE * overlap for shared in common[:-1])
        assert all(shared >= SIDE * overlap for shared in common[-1:])


MERGED = {
    'in one tile': [(0, 3, 4, 20, 15)],
    'in the overlap of two tiles': [(0, 33, 4, 39, 15)],
    'across two tiles': [(1, 25, 5, 50, 20)],
    'across the corner of four tiles': [(2, 25, 28, 45, 43)],
    'larger than a tile': [(2, 10, 12, 120, 90)],
    'two that touch': [(0, 20, 5, 36, 25), (0, 36, 5, 55, 25)],
    'two that touch along a border of tiles': [(0, 20, 5, 40, 25), (0, 40, 5, 60, 25)],
    'two classes at one place': [(0, 25, 5, 50, 20), (1, 26, 5, 51, 21)],
    'at the end of the image': [(0, 100, 80, 130, 100)],
    'none': [],
}


@pytest.mark.parametrize('case', MERGED)
@pytest.mark.parametrize('masks', [True, False])
def test_objects_are_found_once_and_whole(case: str, masks: bool) -> None:
    patches = MERGED[case]
    model = Patches()
    if not masks:
        whole = model._objects
        model._objects = lambda image: whole(image)._replace(masks=None)
    image = painted(*patches)
    (found,) = TiledModel(model, SIDE, 0.2).predict([image])
    assert len(model.shapes) > 1
    assert (np.diff(found.scores) <= 0).all()
    objects = [(int(label), *map(int, box)) for label, box in zip(found.labels, found.boxes, strict=True)]
    assert sorted(objects) == sorted(patches)
    assert (found.masks is not None) == masks
    for mask, (label, left, top, right, low) in zip(found.masks or (), objects, strict=False):
        expected = np.zeros(SIZE, bool)
        expected[top:low, left:right] = True
        assert np.array_equal(mask, expected), label


def test_objects_below_the_threshold_are_not_merged_into_others() -> None:
    image = painted((0, 25, 5, 50, 20))
    (found,) = TiledModel(Patches(), SIDE, 0.2, score_thr=0.15).predict([image])
    assert found.boxes.tolist() == [[32, 5, 50, 20]], 'only the tile with the larger part'


@pytest.mark.parametrize(('top', 'boxes'), [(0, [[82, 0, 95, 40]]), (50, [[82, 50, 97, 90]])])
def test_the_borders_of_the_image_cut_no_objects(top: int, boxes: list[list[float]]) -> None:
    """Of two whole objects the better one is kept; two that are cut become one that contains both."""
    tiles = [(slice(top, top + 100), slice(0, 100)), (slice(top, top + 100), slice(80, 180))]
    left = Objects(np.array([[82, 0, 95, 40]], np.float32), np.array([0.9]), np.array([0]), None)
    right = Objects(np.array([[2, 0, 17, 40]], np.float32), np.array([0.8]), np.array([0]), None)
    merged = merge_objects((150, 180), tiles, [left, right])
    assert merged.boxes.tolist() == boxes


def test_batches_that_do_not_fit_into_memory_are_done_one_by_one() -> None:
    image = painted((1, 25, 5, 50, 20))
    counts = []
    tiled = TiledModel(Patches(most=1), SIDE, batch=5, on_tile=lambda *done: counts.append(done))
    (found,) = tiled.predict([image])
    assert found.boxes.tolist() == [[25, 5, 50, 20]]
    total = len(grid(SIZE, SIDE, 0.2))
    assert counts == [(min(done, total), total) for done in range(0, total + 5, 5)][: len(counts)]
    assert counts[-1] == (total, total)
    with pytest.raises(MemoryError):
        TiledModel(Patches(most=0), SIDE).predict([image])


@pytest.mark.parametrize(
    ('side', 'overlap', 'message'),
    [
        (31, 0.2, '--tiles 31: tiles have at least 32 pixels'),
        (64, 0.95, r'--overlap 0\.95: must be between 0 and 0\.9'),
        (64, -0.1, r'--overlap -0\.1: must be'),
        (64, float('nan'), '--overlap nan: must be'),
    ],
)
def test_settings_out_of_range(side: int, overlap: float, message: str) -> None:
    with pytest.raises(UserError, match=message):
        TiledModel(Patches(), side, overlap)


def test_too_many_tiles_are_refused_at_once() -> None:
    image = np.broadcast_to(np.zeros(3, np.uint8), (10_000, 12_000, 3))
    with pytest.raises(UserError, match='--tiles 32: 13266084 tiles in an image of 12000×10000 pixels; take'):
        TiledModel(Patches(), 32, 0.9).predict([image])


class Brightness:
    """A segmentor of two classes: dark and bright pixels."""

    task = 'semantic segmentation'

    def predict_scores(self, images: Sequence[np.ndarray]) -> list[np.ndarray]:
        return [np.stack([image[..., 0] / 1, 25 - image[..., 0] / 1]) for image in images]


def test_sums_larger_than_the_available_memory_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    needed = 4 * 2 * SIDE * SIZE[1]
    file = tmp_path / 'meminfo'
    monkeypatch.setattr(tiles_module, '_MEMORY', file)
    model, image = TiledModel(Brightness(), SIDE), painted((0, 0, 50, 130, 100))
    file.write_text(f'MemTotal: 99999999 kB\nMemAvailable:   {needed // 1024} kB\n')
    with pytest.raises(MemoryError):
        model.predict([image])
    file.write_text(f'MemAvailable: {needed // 1024 + 1} kB\n')
    (labels,) = model.predict([image])
    file.unlink()  # as on other systems
    assert np.array_equal(labels, model.predict([image])[0])
    assert np.array_equal(labels, image[..., 0] == 0)


@pytest.mark.parametrize(
    'name',
    [
        'retinanet',
        *(pytest.param(name, marks=pytest.mark.slow) for name in ('mask_rcnn', 'cascade_mask_rcnn')),
    ],
)
def test_a_small_image_is_predicted_as_without_tiles(
    name: str, narrow_config: Callable[[str], Config], tmp_path: Path
) -> None:
    cfg = narrow_config(f'{name}_crossformer_s' + '_3x' * name.startswith('cascade'))
    test_cfg = cfg.model.test_cfg.get('rcnn', cfg.model.test_cfg)
    test_cfg.update(score_thr=0.0, max_per_img=5)
    save(cfg, tmp_path, 3)
    model = ToolboxModel(tmp_path / 'narrow.py', tmp_path / 'random.pth', device='cpu')
    image = np.random.default_rng(0).integers(0, 256, (60, 64, 3), np.uint8)
    (whole,), (tiled,) = model.predict([image]), TiledModel(model, 64).predict([image])
    assert len(whole.boxes) == 5
    for one, other in zip(whole[:3], tiled[:3], strict=True):
        assert np.array_equal(one, other)
    assert (whole.masks is None) == (tiled.masks is None) == (name == 'retinanet')
    assert np.array_equal(list(whole.masks or ()), list(tiled.masks or ()))
    (merged,) = TiledModel(model, 32).predict([image])
    assert 0 < len(merged.boxes) <= 5 * len(grid((60, 64), 32, 0.2))


def save(cfg: Config, folder: Path, classes: int) -> None:
    """Write a config, and a checkpoint of random weights."""
    cfg.dump(folder / 'narrow.py')
    init_default_scope(cfg.default_scope)
    set_num_classes(cfg.model, classes)
    torch.manual_seed(0)
    names = tuple(f'class {i}' for i in range(classes))
    state, meta = MODELS.build(cfg.model).state_dict(), {'dataset_meta': {'classes': names}}
    torch.save({'state_dict': state, 'meta': meta}, folder / 'random.pth')


@pytest.mark.parametrize('classes', [5, pytest.param(1, marks=pytest.mark.slow)])
def test_segments_are_those_of_mmsegmentations_sliding_window(
    narrow_segmentor: Callable[[str], Config], tmp_path: Path, classes: int
) -> None:
    cfg = narrow_segmentor('fpn_crossformer_s')
    pipeline = cfg.test_dataloader.dataset.pipeline
    cfg.test_dataloader.dataset.pipeline = [step for step in pipeline if not step.type.startswith('Resize')]
    if classes == 1:
        cfg.model.decode_head.update(out_channels=1, threshold=0.45)
    save(cfg, tmp_path, classes)
    files = tmp_path / 'narrow.py', tmp_path / 'random.pth'
    slide = ['mode=slide', 'crop_size=(64,64)', 'stride=(48,48)']
    theirs = ToolboxModel(
        *files, device='cpu', cfg_options=[f'model.test_cfg.{setting}' for setting in slide]
    )
    ours = TiledModel(ToolboxModel(*files, device='cpu'), 64, 0.25, batch=2)
    for size in SIZES:
        image = image_of(*size)
        (expected,), (labels,) = theirs.predict([image]), ours.predict([image])
        assert labels.shape == size
        assert (labels == expected).mean() > 0.9999
        assert len(np.unique(labels)) > 1 or size != SIZES[0]
