"""Another augmentation in the pipelines of all configs, with samples that fit what is on them."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import CONFIGS
from mmdet.structures.bbox import HorizontalBoxes
from mmengine.config import Config
from mmengine.dataset import BaseDataset
from mmengine.registry import DATASETS, init_default_scope

from crossformer_mm.data.augment import LEVELS, augmentation_of, set_augment
from crossformer_mm.data.classes import read_data, set_classes
from crossformer_mm.data.exif import ignore_exif
from crossformer_mm.data.image_size import set_image_size
from crossformer_mm.data.options import DataOptions, set_data_paths
from crossformer_mm.data.shapes import write_ade20k, write_class_folders
from crossformer_mm.engine.replay import Draw, ReplayedDataset
from crossformer_mm.plugins import register_toolbox
from crossformer_mm.utils.errors import UserError

# One config of each kind of pipeline.
PIPELINES = (
    *('mask_rcnn_crossformer_s', 'mask_rcnn_crossformer_s_3x', 'retinanet_crossformer_s'),
    *('dino_crossformer_s', 'mask2former_crossformer_s_coco', 'rtmdet_ins_crossformer_s', 'demo_mask_rcnn'),
    *('fpn_crossformer_s', 'mask2former_crossformer_s_ade20k', 'demo_semantic_fpn'),
    *('crossformer_s_in1k', 'demo_classifier'),
)
ALL = sorted(path.stem for path in CONFIGS.glob('*.py'))


@pytest.fixture(scope='module')
def roots(coco_root: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The folder of small data for each toolbox."""
    root = tmp_path_factory.mktemp('data')
    write_ade20k(root / 'maps', train=3, val=1, size=64)
    write_class_folders(root / 'classes', train=6, val=3, size=64)
    return {'mmdet': coco_root, 'mmseg': root / 'maps', 'mmpretrain': root / 'classes'}


@pytest.fixture
def samples(config: Callable[[str], Config], roots: dict[str, Path]) -> Callable[..., ReplayedDataset]:
    """A function from a config's name and a level to the augmented samples of small data."""

    def load(name: str, level: str, change: Callable[[Config], Any] = lambda cfg: None) -> ReplayedDataset:
        cfg = config(name)
        set_data_paths(cfg, DataOptions(data_root=str(roots[cfg.default_scope])))
        change(cfg)
        set_augment(cfg, level)
        set_classes(cfg, read_data(cfg, ('train_dataloader',)).classes)
        init_default_scope(cfg.default_scope)
        register_toolbox(cfg.default_scope)
        return ReplayedDataset(DATASETS.build(cfg.train_dataloader.dataset))

    return load


def check(name: str, level: str, samples: Callable[..., ReplayedDataset]) -> None:
    """Check that a sample is repeated by its seed, and has annotations that fit the image."""
    data = samples(name, level)
    sample, other, same = (data[Draw(1, seed)] for seed in (4, 5, 4))
    assert torch.equal(sample['inputs'], same['inputs'])
    assert other['inputs'].shape != sample['inputs'].shape or (other['inputs'] != sample['inputs']).any()
    height, width = sample['inputs'].shape[1:]
    truth = sample['data_samples']
    if 'gt_sem_seg' in truth:
        assert truth.gt_sem_seg.shape == (height, width)
        assert set(truth.gt_sem_seg.data.unique().tolist()) <= {0, 1, 2, 3, 255}
    elif 'gt_label' in truth:
        assert truth.gt_label.item() in range(3)
    else:
        boxes = truth.gt_instances.bboxes.tensor
        assert len(boxes) == len(truth.gt_instances.labels) > 0
        assert (boxes >= 0).all()
        assert (boxes[:, 2:] <= torch.tensor([width, height])).all()
        if level == 'strong' and 'masks' in truth.gt_instances:
            masks = truth.gt_instances.masks
            assert masks.masks.shape[1:] == (height, width)
            assert torch.equal(masks.get_bboxes(HorizontalBoxes).tensor, boxes)


@pytest.mark.parametrize('level', LEVELS)
@pytest.mark.parametrize('name', PIPELINES)
def test_samples_of_each_pipeline(name: str, level: str, samples: Callable[..., ReplayedDataset]) -> None:
    check(name, level, samples)


@pytest.mark.slow
@pytest.mark.parametrize('level', LEVELS)
@pytest.mark.parametrize('name', [name for name in ALL if name not in PIPELINES])
def test_samples_of_all_other_configs(name: str, level: str, samples: Callable[..., ReplayedDataset]) -> None:
    check(name, level, samples)


def steps(cfg: Config) -> list[str]:
    return [step.type for step in cfg.train_dataloader.dataset.pipeline]


def augmented(cfg: Config, level: str) -> Config:
    set_augment(cfg, level)
    return cfg


def test_only_augmentation_is_replaced(config: Callable[[str], Config]) -> None:
    load = ['LoadImageFromFile', 'LoadAnnotations']
    fpn, swapped = config('fpn_crossformer_s'), augmented(config('fpn_crossformer_s'), 'light')
    assert steps(swapped) == [*load, 'RandomResize', 'RandomCrop', 'RandomFlip', 'PackSegInputs']
    assert swapped.train_dataloader.dataset.pipeline[3] == fpn.train_dataloader.dataset.pipeline[3]
    assert swapped.val_dataloader == fpn.val_dataloader
    rtmdet = augmented(config('rtmdet_ins_crossformer_s'), 'light')
    assert steps(rtmdet) == [*load, 'RandomResize', 'RandomFlip', 'PackDetInputs']
    assert rtmdet.train_dataloader.dataset.pipeline[1].poly2mask is False
    assert [hook.type for hook in rtmdet.custom_hooks] == ['EMAHook', 'CurvesHook']  # none switches pipelines


def test_mixing_in_classification(config: Callable[[str], Config]) -> None:
    assert augmented(config('crossformer_s_in1k'), 'light').model.train_cfg is None
    assert augmented(config('demo_classifier'), 'strong').model.train_cfg == {
        'augments': [{'type': 'Mixup', 'alpha': 0.8}, {'type': 'CutMix', 'alpha': 1.0}]
    }


def test_objects_are_pasted_where_there_are_masks(samples: Callable[..., ReplayedDataset]) -> None:
    """Six images have at most three objects each; only pasted ones make them more."""
    counts = {}
    for name in ('demo_mask_rcnn', 'retinanet_crossformer_s'):
        data = samples(name, 'strong')
        records: BaseDataset = data.dataset
        most = max(len(records.get_data_info(i)['instances']) for i in range(len(data)))
        draws = (data[Draw(i % len(data), i)] for i in range(12))
        counts[name] = max(len(draw['data_samples'].gt_instances) for draw in draws) > most
    assert counts == {'demo_mask_rcnn': True, 'retinanet_crossformer_s': False}


def test_with_another_image_size(config: Callable[[str], Config]) -> None:
    cfg = config('mask_rcnn_crossformer_s')
    set_image_size(cfg, [300, 500])
    inner = augmented(cfg, 'strong').train_dataloader.dataset.dataset.pipeline
    resize, crop, pad = inner[2], inner[3], inner[-1]
    assert (resize['scale'], crop['crop_size'], pad['size']) == ((384, 384),) * 3  # √(300 × 500) = 387
    assert cfg.train_dataloader.dataset.pipeline[0]['mask_occluded_thr'] == round(300 * (384 / 1024) ** 2)
    cfg = config('mask2former_crossformer_s_coco')
    set_image_size(cfg, [400])
    assert augmented(cfg, 'light').train_dataloader.dataset.pipeline[3]['crop_size'] == (512, 512)
    cfg = config('crossformer_s_in1k')
    set_image_size(cfg, [160])
    assert augmented(cfg, 'strong').train_dataloader.dataset.pipeline[1]['scale'] == 160


def test_stored_orientation_is_kept(samples: Callable[..., ReplayedDataset]) -> None:
    data = samples('demo_mask_rcnn', 'strong', ignore_exif)
    assert data.dataset.dataset.pipeline.transforms[0].color_type == 'color_ignore_orientation'


def test_the_names_of_the_transforms(config: Callable[[str], Config]) -> None:
    cfg = augmented(config('demo_classifier'), 'strong')
    steps = 'RandomResizedCrop, RandomFlip, RandAugment, RandomErasing, Mixup, CutMix'
    assert augmentation_of(cfg) == steps
    cfg = augmented(config('demo_mask_rcnn'), 'strong')
    assert augmentation_of(cfg).endswith('PhotoMetricDistortion, Pad, CopyPaste')


def change_pipeline(cfg: Config, change: Callable[[list], None]) -> Config:
    cfg = copy.deepcopy(cfg)
    change(cfg.train_dataloader.dataset.pipeline)
    return cfg


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (lambda steps: steps.insert(2, {'type': 'Own'}), 'has the step Own, which may be more than augm'),
        (
            lambda steps: steps.insert(2, {'type': 'RandomApply', 'transforms': [{'type': 'Own'}]}),
            'has the step Own',
        ),
        (lambda steps: steps.pop(), 'does not begin with loading and end with PackDetInputs or'),
        (lambda steps: steps.__delitem__(slice(0, 2)), 'does not begin with loading'),
        (lambda steps: steps.insert(-1, {'type': 'LoadAnnotations'}), 'has the step LoadAnnotations'),
        (lambda steps: steps.clear(), 'does not begin with loading'),
    ],
)
def test_pipelines_that_are_not_understood(
    change: Callable[[list], None], message: str, config: Callable[[str], Config]
) -> None:
    cfg = change_pipeline(config('mask_rcnn_crossformer_s'), change)
    with pytest.raises(UserError, match=f'--augment light: the training pipeline of CocoDataset {message}'):
        set_augment(cfg, 'light')


@pytest.mark.parametrize('name', ['mask_rcnn_crossformer_s', 'crossformer_s_in1k', 'fpn_crossformer_s'])
def test_configs_without_a_size(name: str, config: Callable[[str], Config]) -> None:
    cfg = config(name)
    cfg.test_dataloader.dataset.pipeline = []
    cfg.model.data_preprocessor.size = None
    cfg = change_pipeline(cfg, lambda steps: steps.__delitem__(slice(2, -1)))
    with pytest.raises(UserError, match=r'--augment strong: the config has no .*, whose size it needs'):
        set_augment(cfg, 'strong')


def test_wrapped_datasets(config: Callable[[str], Config]) -> None:
    cfg = config('demo_mask_rcnn')
    inner = cfg.train_dataloader.dataset
    cfg.train_dataloader.dataset = {'type': 'RepeatDataset', 'times': 2, 'dataset': inner}
    set_augment(cfg, 'strong')
    outer = cfg.train_dataloader.dataset
    assert [outer.type, outer.dataset.type] == ['MultiImageMixDataset', 'RepeatDataset']
    with pytest.raises(UserError, match='MultiImageMixDataset does not begin with loading'):
        set_augment(cfg, 'strong')
