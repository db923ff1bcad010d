"""``crossformer infer``: results, pictures, and bad input of every kind."""

import gc
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.infer import BaseInferencer
from mmengine.registry import MODELS, init_default_scope
from PIL import Image
from pycocotools import mask as coco_mask

from crossformer_mm.data.datasets import palette, set_num_classes
from crossformer_mm.deploy.predictions import Objects
from crossformer_mm.engine import cli, toolbox_model
from crossformer_mm.engine import infer as infer_command
from crossformer_mm.engine import test as test_command
from crossformer_mm.engine.image_results import find_files
from crossformer_mm.engine.infer import infer, inference_parser
from crossformer_mm.engine.inferencer import open_inferencer, predict
from crossformer_mm.evaluation.records import object_records
from crossformer_mm.utils.errors import UserError

PROJECT = Path(__file__).parents[2]
CLASSES = ('circle', 'rectangle', 'triangle')
SHARPER = 8
# Not ASCII, not UTF-8, 252 bytes, and with what terminals and formulas interpret.
NAMES = ('葡萄.png', os.fsdecode(b'latin-\xe9.png'), 'é' * 124 + '.png', '-$a_$\n\x1b[31m.png')


def save_checkpoint(cfg: Config, path: Path, classes: tuple[str, ...], **meta: Any) -> None:
    """Random weights for a config with the given number of classes."""
    cfg = cfg.copy()
    init_default_scope(cfg.default_scope)
    set_num_classes(cfg.model, len(classes))
    torch.manual_seed(0)
    state = MODELS.build(cfg.model).state_dict()
    if 'roi_head.bbox_head.fc_cls.weight' in state:  # scores that differ from object to object
        state['roi_head.bbox_head.fc_cls.weight'].mul_(SHARPER)
    torch.save({'state_dict': state, 'meta': meta}, path)


@pytest.fixture(scope='module')
def folder(narrow_config: Callable[[str], Config], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``narrow.py``, for COCO's 80 classes, and ``three.pth``, trained on three others."""
    folder = tmp_path_factory.mktemp('infer')
    cfg = narrow_config('mask_rcnn_crossformer_s')
    cfg.model.test_cfg.rcnn.update(score_thr=0.0, max_per_img=6)
    cfg.dump(folder / 'narrow.py')
    colours = palette(len(CLASSES))
    save_checkpoint(cfg, folder / 'three.pth', CLASSES, dataset_meta={'classes': CLASSES, 'palette': colours})
    return folder


@pytest.fixture
def tool(folder: Path, tmp_path: Path) -> Callable[..., int]:
    """``tools/infer.py`` with the narrow network, in this process, to ``tmp_path/out``."""

    def call(*words: str | Path, config: str = 'narrow.py', checkpoint: str = 'three.pth') -> int:
        words = (*words, '--config', folder / config, '--checkpoint', folder / checkpoint)
        out = () if '--out' in words else ('--out', tmp_path / 'out')
        return cli.run(inference_parser(), infer, list(map(str, (*words, *out))))

    return call


def read(folder: Path) -> dict[str, Any]:
    return json.loads((folder / 'results.json').read_text(encoding='utf-8'))


def noise(*shape: int, dtype: type = np.uint8) -> np.ndarray:
    return np.random.default_rng(0).integers(0, np.iinfo(dtype).max, shape, dtype)


def test_results_are_those_of_the_evaluation(
    tool: Callable[..., int], folder: Path, coco_root: Path, tmp_path: Path
) -> None:
    assert tool(coco_root / 'val2017', '--score-thr', '0', '--batch-size', '2') == 0
    ours = [record for image in read(tmp_path / 'out')['images'] for record in image['objects']]

    words = [folder / 'narrow.py', folder / 'three.pth', '--data-root', coco_root]
    words += ['--work-dir', tmp_path / 'work', '--out', tmp_path / 'coco.json']
    test_command.evaluate(test_command.evaluation_parser().parse_args(list(map(str, words))))
    theirs = json.loads((tmp_path / 'coco.segm.json').read_text())
    boxes = json.loads((tmp_path / 'coco.bbox.json').read_text())

    assert len(ours) == len(theirs) == len(boxes) > 10
    for mine, mask, box in zip(ours, theirs, boxes, strict=True):
        assert mine['label'] + 1 == mask['category_id']
        assert mine['name'] == CLASSES[mine['label']]
        assert mine['score'] == pytest.approx(mask['score'], abs=1e-4)
        assert mine['bbox'] == pytest.approx(box['bbox'], abs=0.02)
        overlap = coco_mask.iou([mine['mask']], [mask['segmentation']], [0])
        assert overlap > 0.95 or coco_mask.area(mine['mask']) == coco_mask.area(mask['segmentation']) == 0


def test_pictures_and_json_of_a_folder(
    tool: Callable[..., int], coco_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tool(coco_root / 'val2017', '--score-thr', '0.5') == 0
    assert re.search(r'3/3 ETA \d:\d\d:\d\d', capsys.readouterr().err)
    content = read(tmp_path / 'out')
    assert (content['classes'], content['skipped']) == (list(CLASSES), [])
    for image in content['images']:
        scores = [record['score'] for record in image['objects']]
        assert scores == sorted(scores, reverse=True)
        assert all(0.5 <= score <= 1 for score in scores)
        picture = cv2.imread(str(tmp_path / 'out' / image['picture']))
        plain = cv2.resize(cv2.imread(image['file']), (800, 800)).astype(int)
        assert (np.abs(picture - plain).max(-1) > 60).mean() > 0.005 * bool(scores)
    assert any(image['objects'] for image in content['images'])
    assert not [path for path in (tmp_path / 'out').rglob('*') if '.part' in path.name]


def test_a_model_without_masks_gives_boxes(
    tool: Callable[..., int], narrow_config: Callable[[str], Config], folder: Path, tmp_path: Path
) -> None:
    cfg = narrow_config('retinanet_crossformer_s')
    cfg.model.test_cfg.update(score_thr=0.0, max_per_img=5)
    cfg.dump(folder / 'retinanet.py')
    save_checkpoint(cfg, folder / 'one.pth', ('nut',), dataset_meta={'classes': ('nut',)})
    cv2.imwrite(str(tmp_path / 'image.png'), noise(50, 70, 3))
    words = (tmp_path / 'image.png', '--score-thr', '0')
    assert tool(*words, config='retinanet.py', checkpoint='one.pth') == 0
    (image,) = read(tmp_path / 'out')['images']
    assert [set(record) for record in image['objects']] == [{'label', 'name', 'score', 'bbox'}] * 5


def image_files(folder: Path) -> dict[str, tuple[int, int]]:
    """Images of every kind, and their displayed height and width."""
    shapes = {'one.png': (1, 1), 'odd.jpg': (37, 91), 'thin.png': (1, 400), 'tall.png': (300, 2)}
    for name, shape in shapes.items():
        cv2.imwrite(str(folder / name), noise(*shape, 3))
    cv2.imwrite(str(folder / 'grey.png'), noise(40, 50))
    cv2.imwrite(str(folder / 'rgba.png'), noise(40, 50, 4))
    cv2.imwrite(str(folder / 'deep.png'), noise(40, 50, 3, dtype=np.uint16))
    cv2.imwrite(str(folder / 'deep.tiff'), noise(40, 50, dtype=np.uint16))
    turned = Image.Exif()
    turned[0x0112] = 6  # the camera was held upright
    Image.fromarray(noise(40, 50, 3)).save(folder / 'turned.jpg', exif=turned)
    Image.fromarray(noise(40, 50)).convert('P').save(folder / 'no_suffix', 'png')
    for name in NAMES:
        (folder / name).write_bytes(cv2.imencode('.png', noise(40, 50, 3))[1].tobytes())
    same = ('grey.png', 'rgba.png', 'deep.png', 'deep.tiff', 'no_suffix', *NAMES)
    return {**shapes, **dict.fromkeys(same, (40, 50)), 'turned.jpg': (50, 40)}


def test_images_of_every_kind(tool: Callable[..., int], tmp_path: Path) -> None:
    (tmp_path / 'in').mkdir()
    sizes = image_files(tmp_path / 'in')
    assert tool(tmp_path / 'in', '--score-thr', '0', '--bf16', '--batch-size', '4') == 0
    images = read(tmp_path / 'out')['images']
    assert {Path(image['file']).name: (image['height'], image['width']) for image in images} == sizes
    assert len({image['picture'] for image in images}) == len(sizes), 'deep.png and deep.tiff have one each'
    for image in images:
        for record in image['objects']:
            assert record['mask']['size'] == [image['height'], image['width']]
            assert np.isfinite([record['score'], *record['bbox']]).all()
            left, top, width, height = record['bbox']
            assert 0 <= left <= left + width <= image['width'] + 0.01
            assert 0 <= top <= top + height <= image['height'] + 0.01
        picture = np.fromfile(tmp_path / 'out' / image['picture'], np.uint8)
        assert cv2.imdecode(picture, cv2.IMREAD_COLOR).shape[0] >= 40
    assert '葡萄' in (tmp_path / 'out' / 'results.json').read_text(encoding='utf-8')


def test_bfloat16_is_used_and_close(folder: Path) -> None:
    image = noise(64, 64, 3)
    plain, half = (
        predict(open_inferencer(folder / 'narrow.py', folder / 'three.pth', 'cpu', bf16), [image])[0]
        for bf16 in (False, True)
    )
    best, close = (sample.pred_instances.scores.max().item() for sample in (plain, half))
    assert best != close
    assert best == pytest.approx(close, abs=0.05)
    assert half.pred_instances.bboxes.dtype == torch.float32


@pytest.mark.parametrize('size', [1, 3])
def test_a_file_that_is_no_image_is_named_and_the_others_done(
    tool: Callable[..., int], coco_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], size: int
) -> None:
    (tmp_path / 'empty').mkdir()
    (tmp_path / 'text.jpg').write_text('no image')
    (tmp_path / 'nothing\x1b.png').touch()
    os.mkfifo(tmp_path / 'pipe')
    names = ('gone.png', 'empty', 'pipe', 'n' * 300, 'text.jpg', 'nothing\x1b.png')
    gone, empty, pipe, long, text, nothing = (tmp_path / name for name in names)
    first, *_, last = sorted((coco_root / 'val2017').iterdir())
    assert tool(text, gone, first, pipe, nothing, long, last, empty, first, '--batch-size', str(size)) == 1
    content = read(tmp_path / 'out')
    assert [record['file'] for record in content['images']] == [str(first), str(last)]
    reasons = {record['file']: record['reason'] for record in content['skipped']}
    assert reasons == {
        str(gone): 'no such file',
        str(empty): 'the folder contains no files',
        str(pipe): 'not a regular file',
        str(long): 'File name too long',
        str(text): 'cannot be read as an image',
        str(nothing): 'cannot be read as an image',
    }
    err = capsys.readouterr().err
    assert all(f'skipped {file}: {why}' in err for file, why in reasons.items() if file != str(nothing))
    assert r'nothing\x1b.png' in err


def test_files_are_found_without_links_that_loop_hidden_ones_and_earlier_results(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    names = ['a.jpg', 'deep/b.jpg', 'deep/[1]/c.png', '.hidden/d.jpg']
    names += ['out/pictures/e.png', 'out/results.json']
    for name in names:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).touch()
    for name, target in {'up': '..', 'itself': 'itself', 'broken': 'gone', 'same.jpg': '../a.jpg'}.items():
        Path('deep', name).symlink_to(target)
    os.mkfifo('deep/pipe.jpg')

    def found(*words: str) -> str:
        files, empty = find_files(words, 'out')
        return ' '.join([*map(str, files), *(f'{word}?' for word in empty)])

    everything = 'a.jpg deep/[1]/c.png deep/b.jpg'
    assert found('.') == found('**') == found('**/*') == found('*') == everything
    assert found('**/*.jpg') == 'a.jpg deep/b.jpg'
    assert found('deep/**/*.png', 'a.jpg', 'x') == 'deep/[1]/c.png a.jpg x?'
    assert found('deep/[1]/c.png', 'deep/pi*', '**/x') == 'deep/[1]/c.png deep/pi*? **/x?'
    assert found('deep/broken', 'deep/itself', 'deep/pipe.jpg') == 'deep/broken? deep/itself? deep/pipe.jpg?'
    assert found(f'{tmp_path}/**/b*') == f'{tmp_path}/deep/b.jpg'
    assert found('.hidden') == found('.hidden/**') == '.hidden/d.jpg'
    assert found('out/pictures') == 'out/pictures/e.png', 'which is then refused as an input'


def test_images_that_do_not_fit_into_memory_are_named_and_the_others_done(
    tool: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The errors are real: torch's for a batch of two images, and numpy's for the results of a tall one."""

    def predict_not_on_two(inferencer: BaseInferencer, images: list[np.ndarray]) -> list:
        if len(images) == 2:
            torch.empty(1 << 60)
        return predict(inferencer, images)

    def records_of_low_ones(found: Objects, classes: list[str], size: tuple[int, int], thr: float) -> list:
        if size[0] > 20:
            np.empty(1 << 60, np.uint8)
        return object_records(found, classes, size, thr)

    monkeypatch.setattr(toolbox_model, 'predict', predict_not_on_two)
    monkeypatch.setattr(infer_command, 'object_records', records_of_low_ones)
    for name, height in {'a': 20, 'b': 30, 'c': 10, 'd': 20, 'e': 20}.items():
        cv2.imwrite(str(tmp_path / f'{name}.png'), noise(height, 20, 3))
    assert tool(tmp_path, '--batch-size', '3') == 1
    content = read(tmp_path / 'out')
    assert [Path(image['file']).stem for image in content['images']] == ['a', 'c', 'd', 'e']
    reason = 'there is not enough memory to predict on it'
    assert content['skipped'] == [{'file': str(tmp_path / 'b.png'), 'reason': reason}]


def test_names_repeat_and_earlier_results_alone_are_replaced(
    tool: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number, name in enumerate(('a/same.png', 'b/c/same.jpg', 'a/same-2.png', 'a/[1].png')):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(tmp_path / name), np.full((8, 8, 3), number, np.uint8))
    words = [tmp_path / '**/same.*', tmp_path / 'a', tmp_path / 'a' / '[1].png', '--score-thr', '1']
    for _ in range(2):
        assert tool(*words) == 0
        images = {image['file']: image['picture'] for image in read(tmp_path / 'out')['images']}
        assert {Path(file).relative_to(tmp_path).as_posix(): path for file, path in images.items()} == {
            'a/same.png': 'pictures/same.png',
            'b/c/same.jpg': 'pictures/same-2.png',
            'a/[1].png': 'pictures/[1].png',
            'a/same-2.png': 'pictures/same-2-2.png',
        }
    assert len(list((tmp_path / 'out' / 'pictures').glob('*.png'))) == 4

    mine = tmp_path / 'out' / 'pictures' / 'same.png'
    mine.write_bytes(b'edited')
    assert tool(*words) == 1
    assert f'{mine} exists, and was not written by this project or has changed' in capsys.readouterr().err
    assert mine.read_bytes() == b'edited'
    assert tool(mine.with_name('same-2.png')) == 1
    assert (
        f'--out {mine.parent}: contains the data {mine.parent}/same-2.png; choose' in capsys.readouterr().err
    )


def test_names_of_classes_come_from_the_config_or_are_numbers(
    folder: Path, narrow_config: Callable[[str], Config], tmp_path: Path
) -> None:
    cfg = narrow_config('mask_rcnn_crossformer_s')
    save_checkpoint(cfg, tmp_path / 'coco.pth', tuple(map(str, range(80))))
    inferencer = open_inferencer(folder / 'narrow.py', tmp_path / 'coco.pth', 'cpu')
    assert inferencer.model.dataset_meta['classes'][:2] == ('person', 'bicycle')

    save_checkpoint(cfg, tmp_path / 'two.pth', ('0', '1'))
    heads = ['model.roi_head.bbox_head.num_classes=2', 'model.roi_head.mask_head.num_classes=2']
    inferencer = open_inferencer(folder / 'narrow.py', tmp_path / 'two.pth', 'cpu', cfg_options=heads)
    assert inferencer.model.dataset_meta['classes'] == ('class 0', 'class 1')
    with pytest.raises(UserError, match=r'two\.pth: does not fit the model: .*fc_cls'):
        open_inferencer(folder / 'narrow.py', tmp_path / 'two.pth', 'cpu')


BAD = {
    'no config': (['--config', 'gone.py'], 'gone.py: no such config file'),
    'config without model': (['--config', 'empty.py'], 'empty.py: has no model and test pipeline'),
    'other scope': (['--config', 'scope.py'], 'its default_scope is mmpose; only mmdet, mmseg, mmpretrain'),
    'no checkpoint': (['--checkpoint', 'gone.pth'], r'gone\.pth: cannot be read \(No such file'),
    'text as a checkpoint': (['--checkpoint', 'empty.py'], r'empty\.py: '),
    'code in the checkpoint': (['--checkpoint', 'evil.pth'], r'evil\.pth: .*posix\.system'),
    'other arch': (['--checkpoint', 'other.pth'], r"other\.pth: .*the file's arch is .*, the model's "),
    'not a device': (['--device', 'gpu'], 'device gpu is not available; this machine has cpu'),
    'no such device': (['--device', 'cuda:99'], 'device cuda:99 is not available'),
    'high threshold': (['--score-thr', '1.5'], r'--score-thr 1\.5: scores are between 0 and 1'),
    'threshold NaN': (['--score-thr', 'nan'], '--score-thr nan: scores are between 0 and 1'),
    'empty batch': (['--batch-size', '0'], '--batch-size 0: must be at least 1'),
    'out is a file': (['--out', 'empty.py'], r'--out empty\.py: empty\.py is a file, not a folder'),
    'bad setting': (['--cfg-options', 'modle.x=1'], 'modle.*did you mean model'),
    'nothing matches': (['--', 'gone/*.jpg'], r'no files at gone/\*\.jpg; give images, folders or patterns'),
}


class Evil:
    """Writes a file when it is unpickled."""

    def __reduce__(self) -> tuple:
        return os.system, ('touch unpickled',)


@pytest.fixture(scope='module')
def beside(
    folder: Path, narrow_config: Callable[[str], Config], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A folder of invalid files."""
    beside = tmp_path_factory.mktemp('beside')
    (beside / 'empty.py').write_text('model = None\n')
    cfg = Config.fromfile(folder / 'narrow.py')
    cfg.default_scope = 'mmpose'
    cfg.dump(beside / 'scope.py')
    cfg = narrow_config('mask_rcnn_crossformer_s')
    cfg.model.backbone.arch.depths = (1, 1, 2, 1)
    save_checkpoint(cfg, beside / 'other.pth', CLASSES, dataset_meta={'classes': CLASSES})
    torch.save({'state_dict': {}, 'meta': Evil()}, beside / 'evil.pth')
    cv2.imwrite(str(beside / 'image.png'), noise(8, 8, 3))
    return beside


@pytest.mark.parametrize('case', BAD)
def test_bad_input_is_one_line(
    case: str,
    folder: Path,
    beside: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    words, message = BAD[case]
    image = [] if words[0] == '--' else ['image.png']
    good = ['--config', str(folder / 'narrow.py'), '--checkpoint', str(folder / 'three.pth')]
    monkeypatch.chdir(beside)
    before = sorted(beside.iterdir())
    gc.collect()  # what earlier tests left may say something when it goes
    capsys.readouterr()
    assert cli.run(inference_parser(), infer, [*image, *good, *words]) == 1
    err = [line for line in capsys.readouterr().err.splitlines() if 'Warning' not in line]
    (error,) = [line for line in err if line.startswith('error: ')]
    assert re.search(message, error)
    assert 'Traceback' not in '\n'.join(err)
    assert sorted(beside.iterdir()) == before, 'nothing is written'


@pytest.mark.slow
def test_interrupted_half_way_leaves_whole_files(folder: Path, tmp_path: Path) -> None:
    (tmp_path / 'in').mkdir()
    for number in range(400):
        cv2.imwrite(str(tmp_path / 'in' / f'{number:03}.png'), noise(30, 30, 3))
    words = ['in', '--config', folder / 'narrow.py', '--checkpoint', folder / 'three.pth', '--device', 'cpu']
    process = subprocess.Popen(
        [sys.executable, PROJECT / 'tools' / 'infer.py', *words],
        cwd=tmp_path,
        env={**os.environ, 'PYTHONPATH': str(PROJECT), 'OMP_NUM_THREADS': '1'},
        stderr=subprocess.PIPE,
        text=True,
    )
    pictures = tmp_path / 'predictions' / 'pictures'
    while len(list(pictures.glob('*.png'))) < 3 and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    err = process.communicate(timeout=60)[1]
    assert 'interrupted' in err.splitlines()
    assert 'Failed to search registry' not in err
    assert 'not loaded' not in err, 'the toolbox does not warn of random weights'
    assert process.returncode == 130
    done = read(tmp_path / 'predictions')['images']
    assert 2 <= len(done) < 400  # the third picture is there before its record
    names = {path.name for path in pictures.glob('*.png')}
    assert names >= {Path(image['picture']).name for image in done}
    assert len(names) <= len(done) + 1
    assert all(cv2.imread(str(path)) is not None for path in pictures.glob('*.png'))
