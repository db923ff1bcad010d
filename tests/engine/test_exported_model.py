"""``crossformer test`` on an exported file: numbers and results of its checkpoint, and what is refused."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from exported_files import CLASSES, LABELS, SCORES, write_classifier, write_detector
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from PIL import Image

from crossformer_mm.data.datasets import set_num_classes
from crossformer_mm.data.shapes import write_class_folders
from crossformer_mm.engine import cli
from crossformer_mm.engine.export import export, export_parser
from crossformer_mm.engine.test import evaluate, evaluation_parser

SIZE = 64  # pixels per side
NAMES = {'background': 0, 'rectangle': 1}


def save(cfg: Config, classes: list[str], folder: Path) -> tuple[Path, Path]:
    """Write a config and a checkpoint of random weights that tell images apart."""
    set_num_classes(cfg.model, len(classes))
    init_default_scope(cfg.default_scope)
    torch.manual_seed(0)
    state = MODELS.build(cfg.model).state_dict()
    state = {name: 3 * value if 'norm' in name else value for name, value in state.items()}
    torch.save({'state_dict': state, 'meta': {'dataset_meta': {'classes': classes}}}, folder / 'model.pth')
    cfg.dump(folder / 'narrow.py')
    return folder / 'narrow.py', folder / 'model.pth'


def run(command: str, *words: str | Path) -> int:
    parts = {'test': (evaluation_parser(), evaluate), 'export': (export_parser(), export)}[command]
    return cli.run(*parts, list(map(str, words)))


def numbers(folder: Path) -> dict[str, float]:
    """The numbers that an evaluation has written to its work folder."""
    (path,) = folder.glob('*/*.json')
    found = json.loads(path.read_text())
    return {name: value for name, value in found.items() if 'time' not in name}


def test_a_classifier_has_the_scores_of_its_checkpoint(
    tmp_path: Path, narrow_classifier: Callable[[str], Config], capsys: pytest.CaptureFixture[str]
) -> None:
    write_class_folders(tmp_path / 'data', train=3, val=6)
    cfg = narrow_classifier('crossformer_s_in1k')
    cfg.test_evaluator.pop('classwise', None)
    config, checkpoint = save(cfg, ['triangle', 'circle', 'rectangle'], tmp_path)
    file = tmp_path / 'model.onnx'
    data = ('--data-root', tmp_path / 'data')
    assert run('export', config, checkpoint, file, '--images', tmp_path / 'data/val') == 0
    results = []
    for model, name in ((checkpoint, 'weights'), (file, 'file')):
        out, work = tmp_path / f'{name}.json', tmp_path / name
        assert run('test', config, model, *data, '--out', out, '--work-dir', work) == 0
        results.append((json.loads(out.read_text()), numbers(work)))
    (theirs, expected), (ours, found) = results
    assert found == expected
    assert len(ours['images']) == 6
    assert len({image['score'] for image in ours['images']}) > 1
    for image, other in zip(ours['images'], theirs['images'], strict=True):
        assert image['file'] == other['file']
        assert image['label'] == other['label']
        assert image['score'] == pytest.approx(other['score'], abs=2e-4)
    assert run('test', config, file, *data, '--tta') == 1
    assert 'model.onnx is an exported file, which tests an image once' in capsys.readouterr().err


def draw(root: Path) -> None:
    """Write two images and their label maps in ADE20K's layout."""
    for kind in ('images', 'annotations'):
        (root / kind / 'validation').mkdir(parents=True)
    random = np.random.default_rng(0)
    for i in range(2):
        labels = np.zeros((SIZE, SIZE), np.uint8)
        labels[10 : 30 + i, 20:50] = 1
        image = 90 * (labels + 1)[..., None] + random.integers(0, 60, (SIZE, SIZE, 3))
        Image.fromarray(image.astype(np.uint8)).save(root / f'images/validation/{i}.png')
        Image.fromarray(labels).save(root / f'annotations/validation/{i}.png')


@pytest.mark.slow
def test_a_segmentor_has_the_label_maps_of_its_checkpoint(
    tmp_path: Path, narrow_segmentor: Callable[[str], Config]
) -> None:
    draw(tmp_path / 'data')
    (tmp_path / 'names.txt').write_text('\n'.join(NAMES))
    config, checkpoint = save(narrow_segmentor('fpn_crossformer_s'), list(NAMES), tmp_path)
    file, images = tmp_path / 'model.onnx', tmp_path / 'data/images/validation'
    assert run('export', config, checkpoint, file, '--size', SIZE, SIZE, '--images', images) == 0
    data = ('--data-root', tmp_path / 'data', '--classes', tmp_path / 'names.txt')
    for model, name in ((checkpoint, 'weights'), (file, 'file')):
        out = ('--out', tmp_path / name / 'maps', '--show-dir', tmp_path / name / 'pictures')
        assert run('test', config, model, *data, '--work-dir', tmp_path / name, *out) == 0
    assert numbers(tmp_path / 'file') == pytest.approx(numbers(tmp_path / 'weights'), abs=0.1)
    for i in range(2):
        theirs, ours = (np.array(Image.open(tmp_path / f'{n}/maps/{i}.png')) for n in ('weights', 'file'))
        assert set(np.unique(theirs)) == set(NAMES.values())
        assert (ours != theirs).mean() <= 1e-3
        assert (tmp_path / f'file/pictures/{i}.png').is_file()


@pytest.fixture
def coco(coco_root: Path, tmp_path: Path, narrow_config: Callable[[str], Config]) -> list[str | Path]:
    """A detector's config, and options of its data."""
    narrow_config('mask_rcnn_crossformer_s').dump(tmp_path / 'narrow.py')
    return [tmp_path / 'narrow.py', '--data-root', coco_root, '--work-dir', tmp_path / 'run']


def test_objects_are_evaluated_in_the_pixels_of_the_image(tmp_path: Path, coco: list[str | Path]) -> None:
    file = write_detector(tmp_path / 'model.onnx', (48, 32))
    hook = ('--cfg-options', 'custom_hooks.0.type=EMAHook')  # of its training, in the work folder's config
    assert run('test', *coco, file, '--out', tmp_path / 'found', *hook) == 0
    boxes, masks = (json.loads((tmp_path / f'found.{kind}.json').read_text()) for kind in ('bbox', 'segm'))
    assert len(boxes) == len(masks) == 3 * 3, 'three objects in each of three images'
    assert [box['category_id'] for box in boxes[:3]] == (LABELS[:3] + 1).tolist()
    assert boxes[1]['score'] / boxes[0]['score'] == pytest.approx(SCORES[1] / SCORES[0])
    # of an image of 64×64, which fits into 32×32
    assert boxes[0]['bbox'] == pytest.approx([6.4, 12.8, 28.8, 32.0], abs=1e-3)
    assert all(mask['segmentation']['size'] == [64, 64] for mask in masks)


def test_what_does_not_fit_is_refused_in_one_line(
    tmp_path: Path, coco: list[str | Path], capsys: pytest.CaptureFixture[str]
) -> None:
    detector = write_detector(tmp_path / 'model.onnx', (48, 64))
    boxes = write_detector(tmp_path / 'boxes.onnx', (48, 64), masks=False)
    classifier = write_classifier(tmp_path / 'classifier.onnx', (32, 32))
    other = tmp_path / 'other.onnx'
    other.write_bytes(detector.read_bytes().replace(b'"circle"', b'"sphere"'))
    pillow = 'test_dataloader.dataset.pipeline.0.imdecode_backend=pillow'
    cases = {
        (boxes,): 'boxes.onnx: is for detection, ',
        (classifier,): 'narrow.py for instance segmentation; give the config of the export',
        (other,): f'other.onnx was trained on other classes (sphere, {CLASSES[1]}, {CLASSES[2]}) than the',
        (detector, '--cfg-options', 'model.test_cfg.rcnn.score_thr=0.5'): 'has no effect on an exported file',
        (detector, '--cfg-options', pillow): "loads images with imdecode_backend='pillow'",
        (tmp_path / 'gone.onnx',): 'gone.onnx: cannot be read',
    }
    for words, message in cases.items():
        assert run('test', *coco, *words) == 1
        line = capsys.readouterr().err.strip()
        assert message in line.splitlines()[-1]
        assert not (tmp_path / 'run').exists()
