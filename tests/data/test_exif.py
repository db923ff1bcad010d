"""``--ignore-exif``: one setting for all pipelines, pictures and checks, noted with the checkpoint."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from mmengine.config import Config
from mmengine.registry import DATASETS, init_default_scope
from PIL import Image

from crossformer_mm.checkpoint.meta import trained_without_exif
from crossformer_mm.data.datasets import LOADERS, dicts_in
from crossformer_mm.data.exif import (
    check_exif,
    exif_warnings,
    ignore_exif,
    ignores_exif,
    other_than_in_training,
)
from crossformer_mm.data.label_folders import check_labels
from crossformer_mm.data.options import DataOptions, set_data_paths
from crossformer_mm.utils.errors import UserError

VALUES = np.random.default_rng(0).integers(0, 3, (64, 64), np.uint8).repeat(2, 0).repeat(2, 1)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Square photographs that EXIF turns by 180°, and label maps of their stored pixels."""
    turn = Image.Exif()
    turn[0x0112] = 3
    for split in ('training', 'validation'):
        for kind in ('images', 'annotations'):
            (tmp_path / kind / split).mkdir(parents=True)
        for i in range(3):
            Image.fromarray(VALUES * 100).convert('RGB').save(
                tmp_path / 'images' / split / f'{i}.png', exif=turn
            )
            Image.fromarray(VALUES).save(tmp_path / 'annotations' / split / f'{i}.png')
    return tmp_path


@pytest.fixture
def cfg(narrow_segmentor: Callable[[str], Config], root: Path) -> Config:
    cfg = narrow_segmentor('fpn_crossformer_s')
    set_data_paths(cfg, DataOptions(data_root=str(root), classes='3'))
    return cfg


def samples(cfg: Config) -> list[dict]:
    """What the training, validation and test-time-augmentation pipelines make of the first image."""
    init_default_scope('mmseg')
    steps = [cfg.train_dataloader.dataset.pipeline[:2], cfg.val_dataloader.dataset.pipeline[:1]]
    dataset = cfg.val_dataloader.dataset
    return [
        DATASETS.build({**dataset, 'pipeline': [*p, *steps[0][1:]]})[0]
        for p in (*steps, cfg.tta_pipeline[:1])
    ]


def test_every_pipeline_loads_the_stored_pixels(cfg: Config, tmp_path: Path) -> None:
    assert not ignores_exif(cfg)
    turned = [np.abs(s['img'][..., 0] - 100.0 * s['gt_seg_map']).max() for s in samples(cfg)]
    assert min(turned) >= 100, 'image and label map do not fit'
    ignore_exif(cfg)
    for sample in samples(cfg):
        np.testing.assert_array_equal(sample['img'][..., 0], 100 * sample['gt_seg_map'])
    steps = [step for _, step in dicts_in(cfg.to_dict()) if step.get('type') == 'LoadImageFromFile']
    assert {step['color_type'] for step in steps} == {'color_ignore_orientation'}
    assert all(ignores_exif(cfg[loader]) for loader in LOADERS)
    Config({'test_dataloader': cfg.test_dataloader.to_dict()}).dump(tmp_path / 'dumped.py')
    assert ignores_exif(Config.fromfile(tmp_path / 'dumped.py'))


def test_the_option_is_for_every_kind_of_data() -> None:
    dataset = {'type': 'Mine', 'pipeline': [{'type': 'mmcv.LoadImageFromFile', 'color_type': 'grayscale'}]}
    cfg = Config({'train_dataloader': {'dataset': {'type': 'RepeatDataset', 'dataset': dataset}}})
    set_data_paths(cfg, DataOptions(ignore_exif=True))
    step = cfg.train_dataloader.dataset.dataset.pipeline[0]
    assert step.color_type == 'grayscale_ignore_orientation'
    cfg.train_dataloader.dataset.dataset.pipeline[0].type = 'LoadMine'
    with pytest.raises(UserError, match=r'--ignore-exif: no pipeline of .* loads images'):
        ignore_exif(cfg)


def test_turned_images_are_counted_at_the_start(cfg: Config, root: Path) -> None:
    Image.new('RGB', (128, 128)).save(root / 'images' / 'training' / '1.png')
    init_default_scope('mmseg')
    dataset = DATASETS.build(cfg.train_dataloader.dataset)
    [line] = exif_warnings(dataset, cfg.train_dataloader)
    first = root / 'images' / 'training' / '0.png'
    counts = '2 of the 3 images that were looked at are turned by EXIF'
    assert line.startswith(f'{counts}: {first} is turned as its EXIF data says; ')
    assert 'give --ignore-exif' in line
    problems = check_exif(sorted((root / 'images').glob('*/*.png')))
    assert [problem.kind for problem in problems] == ['images turned by EXIF'] * 5
    assert not any(problem.fatal for problem in problems)
    ignore_exif(cfg)
    assert exif_warnings(dataset, cfg.train_dataloader) == []
    assert [report.problems for report in check_labels(cfg, LOADERS[:2])] == [[], []]


@pytest.mark.parametrize('trained', [False, True])
@pytest.mark.parametrize('tested', [False, True])
def test_a_checkpoint_is_tested_as_it_was_trained(cfg: Config, trained: bool, tested: bool) -> None:
    training = Config({'train_dataloader': cfg.train_dataloader.to_dict()})
    for each, ignored in ((training, trained), (cfg, tested)):
        if ignored:
            ignore_exif(each)
    lines = other_than_in_training(cfg, trained_without_exif({'meta': {'cfg': training.pretty_text}}))
    expected = f'trained {"with" if trained else "without"} --ignore-exif'
    assert [expected in line for line in lines] == [True] * (trained != tested)
    assert other_than_in_training(cfg, trained_without_exif({})) == [], 'unknown'
