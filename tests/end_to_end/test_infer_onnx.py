"""``crossformer infer --onnx``: results of exported files of every kind, and options that do not fit them."""

import json
import re
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from exported_files import (
    BOXES,
    CLASSES,
    SCORES,
    write_backbone,
    write_classifier,
    write_detector,
    write_glutton,
    write_segmentor,
)
from PIL import Image
from pycocotools import mask as coco_mask

from crossformer_mm.engine import cli
from crossformer_mm.engine.infer import infer, inference_parser

H, W = 48, 64


def command(*words: str | Path) -> int:
    return cli.run(inference_parser(), infer, list(map(str, words)))


def results(folder: Path) -> dict[str, Any]:
    return json.loads((folder / 'results.json').read_text())


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Three images, the second one brighter than the others."""
    (tmp_path / 'images').mkdir()
    for name, value in {'a': 100, 'b': 200, 'c': 100}.items():
        cv2.imwrite(str(tmp_path / 'images' / f'{name}.png'), np.full((2 * H, 2 * W, 3), value, np.uint8))
    return tmp_path / 'images'


@pytest.mark.parametrize(('batch', 'size'), [(1, 1), (1, 3), (2, 3), ('batch', 2)])
def test_objects_of_each_image(images: Path, tmp_path: Path, batch: int | str, size: int) -> None:
    file = write_detector(tmp_path / 'model.onnx', (H, W), batch)
    assert command(images, '--onnx', file, '--out', tmp_path / 'out', '--batch-size', size) == 0
    content = results(tmp_path / 'out')
    assert list(content) == ['onnx', 'config', 'checkpoint', 'classes', 'score_thr', 'images', 'skipped']
    about = [content[name] for name in ('onnx', 'config', 'checkpoint', 'classes')]
    assert about == [str(file), 'narrow.py', 'three.pth', CLASSES]
    counts = {}
    for image in content['images']:
        counts[Path(image['file']).stem] = len(image['objects'])
        best = image['objects'][0]
        brightness = 200 if 'b.png' in image['file'] else 100
        assert best['name'] == 'triangle'
        assert best['score'] == pytest.approx(SCORES[0] * brightness / 255, abs=1e-4)
        left, top, right, low = BOXES[0] * [2 * W, 2 * H, 2 * W, 2 * H]
        assert best['bbox'] == pytest.approx([left, top, right - left, low - top], abs=0.01)
        assert best['mask']['size'] == [2 * H, 2 * W]
        assert cv2.imread(str(tmp_path / 'out' / image['picture'])).shape[1] >= 800
    assert counts == {'a': 1, 'b': 2, 'c': 1}, 'the threshold is 0.3'


def test_label_maps(tmp_path: Path) -> None:
    file = write_segmentor(tmp_path / 'model.onnx', (H, W))
    pixels = np.random.default_rng(0).integers(0, 256, (H, W, 3), np.uint8)
    cv2.imwrite(str(tmp_path / 'a.png'), pixels)
    assert command(tmp_path / 'a.png', '--onnx', file, '--out', tmp_path / 'out') == 0
    (image,) = results(tmp_path / 'out')['images']
    labels = pixels[..., 2] % 3
    assert np.array_equal(cv2.imread(str(tmp_path / 'out' / image['label_map']), -1), labels)
    found = {record['name']: record['pixels'] for record in image['segments']}
    assert found == {name: (labels == i).sum() for i, name in enumerate(CLASSES)}


def test_classes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write_classifier(tmp_path / 'model.onnx', (32, 32))
    cv2.imwrite(str(tmp_path / 'a.png'), np.full((50, 60, 3), (70, 20, 10), np.uint8))
    cv2.imwrite(str(tmp_path / 'black.png'), np.zeros((50, 60, 3), np.uint8))
    assert command(tmp_path / 'a.png', tmp_path / 'black.png', '--onnx', file, '--out', tmp_path / 'out') == 1
    content = results(tmp_path / 'out')
    (image,) = content['images']
    assert (image['name'], image['score']) == ('triangle', 0.7)
    assert [best['name'] for best in image['top']] == ['triangle', 'rectangle', 'circle']
    assert content['skipped'][0]['reason'].startswith('its scores are NaN')
    assert 'a.png: triangle 0.70' in capsys.readouterr().out


@pytest.mark.parametrize('stored', [False, True])
@pytest.mark.parametrize('option', [False, True])
def test_images_are_turned_unless_the_file_or_the_user_says_otherwise(
    tmp_path: Path, stored: bool, option: bool
) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held upright
    Image.new('RGB', (60, 40)).save(tmp_path / 'turned.jpg', exif=exif)
    file = write_detector(tmp_path / 'model.onnx', (H, W), ignore_exif=stored)
    words = ['--ignore-exif'] if option else []
    assert command(tmp_path / 'turned.jpg', '--onnx', file, '--out', tmp_path / 'out', *words) == 0
    (image,) = results(tmp_path / 'out')['images']
    assert (image['height'], image['width']) == ((40, 60) if stored or option else (60, 40))


def test_files_that_cannot_be_read_are_skipped(images: Path, tmp_path: Path) -> None:
    file = write_detector(tmp_path / 'model.onnx', (H, W), 'batch')
    (images / 'b.png').write_text('no image')
    words = ('--onnx', file, '--out', tmp_path / 'out', '--batch-size', 2)
    assert command(images, tmp_path / 'gone.png', *words) == 1
    content = results(tmp_path / 'out')
    assert [Path(image['file']).stem for image in content['images']] == ['a', 'c']
    assert [Path(record['file']).stem for record in content['skipped']] == ['gone', 'b']


def test_a_batch_that_does_not_fit_into_memory_is_done_one_by_one(
    images: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    file = write_glutton(tmp_path / 'model.onnx', (H, W), 'batch')
    assert command(images, '--onnx', file, '--out', tmp_path / 'out', '--batch-size', 3) == 0
    assert len(results(tmp_path / 'out')['images']) == 3
    file = write_glutton(tmp_path / 'two.onnx', (H, W), 2)
    assert command(images, '--onnx', file, '--out', tmp_path / 'two') == 1
    skipped = results(tmp_path / 'two')['skipped']
    assert [record['reason'] for record in skipped] == ['there is not enough memory to predict on it'] * 3
    assert 'onnxruntime' not in capfd.readouterr().err


def test_large_images_in_tiles(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The file finds the same objects in each tile, which do not overlap here, at the tile's place."""
    file = write_detector(tmp_path / 'model.onnx', (H, W), 'batch')
    cv2.imwrite(str(tmp_path / 'a.png'), np.full((80, 120, 3), 255, np.uint8))
    words = ('--onnx', file, '--score-thr', '0.7', '--tiles', '40')
    assert command(tmp_path / 'a.png', *words, '--overlap', '0', '--batch-size', '4', '--out', tmp_path) == 0
    (image,) = results(tmp_path)['images']
    assert [record['score'] for record in image['objects']] == [pytest.approx(SCORES[0], abs=1e-4)] * 6
    left, top = BOXES[0, :2] * 40
    corners = sorted((record['bbox'][1] - top, record['bbox'][0] - left) for record in image['objects'])
    assert np.allclose(corners, [(y, x) for y in (0, 40) for x in (0, 40, 80)], atol=0.01)
    masks = [coco_mask.decode(record['mask']) for record in image['objects']]
    assert {mask.shape for mask in masks} == {(80, 120)}
    for mask, record in zip(masks, image['objects'], strict=True):
        x, y = (round(record['bbox'][0] - left), round(record['bbox'][1] - top))
        assert mask.sum() == mask[y : y + 40, x : x + 40].sum() > 0
    assert re.search(r'tiles .*6/6 ETA', capsys.readouterr().err)


BAD = {
    'tiny tiles': (['--onnx', 'model.onnx', '--tiles', '31'], '--tiles 31: tiles have at least 32 pixels'),
    'all overlap': (
        ['--onnx', 'model.onnx', '--tiles', '64', '--overlap', '1'],
        r'--overlap 1: must be between 0 and 0\.9',
    ),
    'overlap alone': (
        ['--onnx', 'model.onnx', '--overlap', '0.3'],
        r'--overlap 0\.3: has no effect without tiles; add --tiles S',
    ),
    'tiles of a classifier': (
        ['--onnx', 'classifier.onnx', '--tiles', '64'],
        '--tiles: a classifier needs the whole image',
    ),
    'tiles of a segmentor': (
        ['--onnx', 'segmentor.onnx', '--tiles', '64'],
        '--tiles: an exported segmentor gives labels, but not .*; use --config and --checkpoint',
    ),
    'no model': ([], '--config and --checkpoint: missing; or give an exported file: --onnx FILE'),
    'no checkpoint': (['--config', 'a.py'], '--checkpoint: missing; or give an exported file'),
    'config': (['--onnx', 'model.onnx', '--config', 'a.py'], '--config: has no effect on an exported file'),
    'checkpoint': (
        ['--onnx', 'model.onnx', '--checkpoint', 'a'],
        '--checkpoint: has no effect on an exported',
    ),
    'device': (['--onnx', 'model.onnx', '--device', 'cpu'], '--device: has no effect on an exported file'),
    'bf16': (['--onnx', 'model.onnx', '--bf16'], '--bf16: has no effect on an exported file; leave it out'),
    'setting': (
        ['--onnx', 'model.onnx', '--cfg-options', 'a=1'],
        '--cfg-options: has no effect on an exported',
    ),
    'backbone': (['--onnx', 'backbone.onnx'], '--onnx backbone.onnx: is a backbone alone; export a complete'),
    'no file': (
        ['--onnx', 'gone.onnx'],
        r'gone\.onnx: cannot be read \(No such file or directory\); give a file',
    ),
    'no model file': (['--onnx', 'a.png'], r'a\.png: cannot be opened as an ONNX file'),
}


@pytest.mark.parametrize('case', BAD)
def test_bad_input_is_one_line(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words, message = BAD[case]
    monkeypatch.chdir(tmp_path)
    cv2.imwrite('a.png', np.zeros((8, 8, 3), np.uint8))
    write_detector(Path('model.onnx'), (H, W))
    write_backbone(Path('backbone.onnx'), (H, W))
    write_classifier(Path('classifier.onnx'), (H, W))
    write_segmentor(Path('segmentor.onnx'), (H, W))
    before = sorted(tmp_path.iterdir())
    assert command('a.png', *words) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert re.match(f'error: {message}', line)
    assert sorted(tmp_path.iterdir()) == before, 'nothing is written'
