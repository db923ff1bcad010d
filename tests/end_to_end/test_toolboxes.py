"""The configs in the toolboxes' own programs and inferencers."""

import runpy
import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import mmdet
import mmseg
import numpy as np
import pytest
import torch
from conftest import CONFIGS
from mmdet.apis import DetInferencer
from mmdet.registry import MODELS as DETECTORS
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmseg.apis import MMSegInferencer
from mmseg.registry import MODELS as SEGMENTORS

from crossformer_mm.data.shapes import CLASSES

MINE = """
_base_ = {base!r}
metainfo = dict(classes={classes!r})
data = dict(data_root={root!r}, metainfo=metainfo)
train_dataloader = dict(batch_size=2, dataset=data)
val_dataloader = dict(dataset=data)
test_dataloader = dict(dataset=data)
val_evaluator = dict(ann_file={ann!r})
test_evaluator = dict(ann_file={ann!r}, outfile_prefix={out!r})
heads = dict(num_classes=len({classes!r}))
model = dict(roi_head=dict(bbox_head=heads, mask_head=heads), test_cfg=dict(rcnn=dict(score_thr=0.0)))
train_cfg = dict(max_epochs=1, val_interval=1)
"""


@pytest.fixture
def program(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., None]:
    """A function that runs a program of a toolbox, in an empty folder."""

    def run(toolbox: object, name: str, *words: object) -> None:
        path = Path(toolbox.__file__).parent / '.mim' / 'tools' / name
        monkeypatch.setattr(sys, 'argv', [str(path), *map(str, words)])
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv('LOCAL_RANK', '0')
        runpy.run_path(str(path), run_name='__main__')

    return run


@pytest.fixture(scope='module')
def detector(
    narrow_config: Callable[[str], Config], coco_root: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A folder with a narrow Mask R-CNN for the generated shapes, ``mine.py``, and its ``weights.pth``."""
    folder = tmp_path_factory.mktemp('detector')
    narrow_config('mask_rcnn_crossformer_pp_s').dump(folder / 'narrow.py')
    write_config(folder / 'mine.py', folder / 'narrow.py', coco_root)
    save_weights(Config.fromfile(folder / 'mine.py'), DETECTORS, CLASSES, folder / 'weights.pth')
    return folder


def write_config(path: Path, base: Path, coco_root: Path) -> None:
    """Write the config of a user who trains one of the configs on generated shapes with MMDetection."""
    annotations = str(coco_root / 'annotations' / 'instances_val2017.json')
    out = str(path.parent / 'results')
    path.write_text(
        MINE.format(base=str(base), classes=CLASSES, root=str(coco_root), ann=annotations, out=out)
    )


def save_weights(cfg: Config, models: object, classes: tuple[str, ...], path: Path) -> None:
    init_default_scope(cfg.default_scope)
    torch.manual_seed(0)
    meta = {'dataset_meta': {'classes': classes, 'palette': [(255, 0, 0)] * len(classes)}}
    torch.save({'state_dict': models.build(cfg.model).state_dict(), 'meta': meta}, path)


def images(folder: Path) -> list[str]:
    paths = [str(folder / f'{i}.png') for i in range(2)]
    for path in paths:
        cv2.imwrite(path, np.random.default_rng(0).integers(0, 255, (50, 70, 3), np.uint8))
    return paths


def test_inferencer_of_mmdetection(detector: Path, tmp_path: Path) -> None:
    inferencer = DetInferencer(str(detector / 'mine.py'), str(detector / 'weights.pth'), device='cpu')
    found = inferencer(images(tmp_path), out_dir=str(tmp_path / 'out'), no_save_pred=False)
    assert len(found['predictions']) == 2
    assert len(list((tmp_path / 'out' / 'vis').iterdir())) == 2


def test_inferencer_of_mmsegmentation(narrow_segmentor: Callable[[str], Config], tmp_path: Path) -> None:
    cfg = narrow_segmentor('fpn_crossformer_s')
    cfg.dump(tmp_path / 'narrow.py')
    save_weights(cfg, SEGMENTORS, tuple(f'class {i}' for i in range(150)), tmp_path / 'weights.pth')
    inferencer = MMSegInferencer(str(tmp_path / 'narrow.py'), str(tmp_path / 'weights.pth'), device='cpu')
    found = inferencer(images(tmp_path), out_dir=str(tmp_path / 'out'))
    assert [labels.shape for labels in found['predictions']] == [(50, 70)] * 2
    assert len(list((tmp_path / 'out' / 'vis').iterdir())) == 2


@pytest.mark.parametrize(
    'name',
    [
        *(
            'demo_mask_rcnn',
            'mask_rcnn_crossformer_s',
            'retinanet_crossformer_s',
            'mask_rcnn_crossformer_s_3x',
        ),
        *('demo_semantic_fpn', 'fpn_crossformer_s', 'upernet_crossformer_s'),
    ],
)
def test_data_loaders_are_as_the_toolboxes_expect_them(name: str, config: Callable[[str], Config]) -> None:
    cfg = config(name)
    for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
        assert loader.dataset.pipeline[0].type == 'LoadImageFromFile'
        assert loader.num_workers or not loader.persistent_workers


@pytest.mark.slow
def test_evaluation_and_analysis_by_mmdetection(
    detector: Path, program: Callable[..., None], coco_root: Path, tmp_path: Path
) -> None:
    config, found = detector / 'mine.py', tmp_path / 'found.pkl'
    program(mmdet, 'test.py', config, detector / 'weights.pth', '--work-dir', tmp_path, '--out', found)
    program(mmdet, 'analysis_tools/analyze_results.py', config, found, tmp_path / 'analysis', '--topk', 1)
    assert {path.name for path in (tmp_path / 'analysis').iterdir()} >= {'good', 'bad'}
    words = [detector / 'results.bbox.json', tmp_path / 'errors', '--types', 'bbox']
    annotations = coco_root / 'annotations' / 'instances_val2017.json'
    program(mmdet, 'analysis_tools/coco_error_analysis.py', *words, '--ann', annotations)
    assert list((tmp_path / 'errors' / 'bbox').glob('*circle*.png'))


def test_pretrained_of_a_segmentor(narrow_segmentor: Callable[[str], Config], tmp_path: Path) -> None:
    cfg = narrow_segmentor('upernet_crossformer_s')
    init_default_scope('mmseg')
    backbone = SEGMENTORS.build(cfg.model.backbone)
    torch.save(backbone.state_dict(), tmp_path / 'backbone.pth')
    cfg.model.pretrained = str(tmp_path / 'backbone.pth')
    model = SEGMENTORS.build(cfg.model)
    model.init_weights()
    for name, weights in backbone.state_dict().items():
        assert torch.equal(model.backbone.state_dict()[name], weights), name
    with pytest.raises(ValueError, match='give one of them'):
        SEGMENTORS.build({**cfg.model.backbone, 'pretrained': 'a.pth', 'init_cfg': {'type': 'Pretrained'}})


@pytest.mark.slow
def test_training_of_the_demo_by_mmdetection(
    program: Callable[..., None], coco_root: Path, tmp_path: Path
) -> None:
    write_config(tmp_path / 'mine.py', CONFIGS / 'demo_mask_rcnn.py', coco_root)
    program(mmdet, 'train.py', tmp_path / 'mine.py', '--work-dir', tmp_path / 'run')
    assert (tmp_path / 'run' / 'epoch_1.pth').is_file()


@pytest.mark.slow
def test_training_by_mmsegmentation(
    narrow_segmentor: Callable[[str], Config], program: Callable[..., None], tmp_path: Path
) -> None:
    for kind, suffix in (('images', 'jpg'), ('annotations', 'png')):
        for split in ('training', 'validation'):
            (tmp_path / kind / split).mkdir(parents=True)
            image = np.random.default_rng(0).integers(1, 3, (64, 64), np.uint8)
            cv2.imwrite(str(tmp_path / kind / split / f'0.{suffix}'), image)
    cfg = narrow_segmentor('fpn_crossformer_pp_s')
    for loader in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
        cfg[loader].dataset.data_root = str(tmp_path)
    cfg.train_cfg.update(max_iters=1, val_interval=1)
    cfg.dump(tmp_path / 'mine.py')
    program(mmseg, 'train.py', tmp_path / 'mine.py', '--work-dir', tmp_path / 'run')
    checkpoint = tmp_path / 'run' / 'best_mIoU_iter_1.pth'
    program(mmseg, 'test.py', tmp_path / 'mine.py', checkpoint, '--work-dir', tmp_path / 'run')
