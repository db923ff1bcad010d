"""``crossformer explain``: pictures, results, and bad input."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

from crossformer_mm.data.datasets import set_num_classes
from crossformer_mm.engine import cli
from crossformer_mm.engine.explain import explain, explanation_parser
from crossformer_mm.engine.infer import infer, inference_parser
from crossformer_mm.engine.inferencer import open_inferencer
from crossformer_mm.engine.network_input import prepare_input

CLASSES = {
    'mmdet': ('circle', 'rectangle', 'triangle'),
    'mmseg': ('sky', 'road'),
    'mmpretrain': ('cat', 'dog'),
}
SIZES = {'wide': (40, 90), 'tall': (70, 30), 'thin': (2, 300)}


def save_model(cfg: Config, folder: Path) -> None:
    """``model.py`` and ``model.pth``, with random weights."""
    classes = CLASSES[cfg.default_scope]
    cfg.dump(folder / 'model.py')
    cfg = cfg.copy()
    init_default_scope(cfg.default_scope)
    set_num_classes(cfg.model, len(classes))
    torch.manual_seed(0)
    state = MODELS.build(cfg.model).state_dict()
    torch.save({'state_dict': state, 'meta': {'dataset_meta': {'classes': classes}}}, folder / 'model.pth')


@pytest.fixture(scope='module')
def detector(narrow_config: Callable[[str], Config], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp('detector')
    cfg = narrow_config('retinanet_crossformer_s')
    cfg.model.test_cfg.update(score_thr=0.0, max_per_img=3)
    save_model(cfg, folder)
    return folder


@pytest.fixture(scope='module')
def segmentor(narrow_segmentor: Callable[[str], Config], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp('segmentor')
    save_model(narrow_segmentor('fpn_crossformer_s'), folder)
    return folder


@pytest.fixture(scope='module')
def classifier(narrow_classifier: Callable[[str], Config], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp('classifier')
    save_model(narrow_classifier('crossformer_pp_s_in1k'), folder)
    return folder


@pytest.fixture(scope='module')
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp('images')
    for name, size in SIZES.items():
        noise = np.random.default_rng(0).integers(0, 255, (*size, 3), np.uint8)
        cv2.imwrite(str(folder / f'{name}.png'), noise)
    return folder


def run(model: Path, out: Path, *words: object) -> int:
    """``tools/explain.py`` in this process."""
    init_default_scope(Config.fromfile(model / 'model.py').default_scope)  # that of the last model stays
    words = (model / 'model.py', model / 'model.pth', *words, '--out', out, '--channels', 3)
    return cli.run(explanation_parser(), explain, list(map(str, words)))


def read(folder: Path) -> dict[str, Any]:
    return json.loads((folder / 'results.json').read_text(encoding='utf-8'))


@pytest.mark.slow
def test_objects_are_counted_as_in_the_results_of_infer(
    detector: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(detector, tmp_path / 'out', images, '--box', 2, '--score-thr', 0) == 0
    assert '12/12 ETA' in capsys.readouterr().err
    words = [images, '--config', detector / 'model.py', '--checkpoint', detector / 'model.pth']
    words += ['--out', tmp_path / 'predictions', '--score-thr', 0]
    assert cli.run(inference_parser(), infer, list(map(str, words))) == 0
    found, predicted = read(tmp_path / 'out'), read(tmp_path / 'predictions')
    assert (found['stage'], found['skipped'], len(found['images'])) == (2, [], 3)
    for ours, theirs in zip(found['images'], predicted['images'], strict=True):
        assert (ours['file'], ours['height'], ours['width']) == (
            theirs['file'],
            theirs['height'],
            theirs['width'],
        )
        assert ours['target']['name'] == theirs['objects'][1]['name']
        assert ours['target']['score'] == pytest.approx(theirs['objects'][1]['score'], abs=1e-3)
        assert ours['target']['bbox'] == pytest.approx(theirs['objects'][1]['bbox'], abs=0.1)
        assert cv2.imread(str(tmp_path / 'out' / ours['map'])).shape[1] > 1000


@pytest.mark.slow
def test_a_class_of_a_segmentor_and_of_a_classifier(
    segmentor: Path, classifier: Path, images: Path, tmp_path: Path
) -> None:
    assert run(segmentor, tmp_path / 'seg', images, '--stage', 3) == 0
    assert read(tmp_path / 'seg')['stage'] == 3
    assert run(classifier, tmp_path / 'cls', images, '--class', 'dog') == 0
    found = read(tmp_path / 'cls')
    assert [image['target']['name'] for image in found['images']] == ['dog'] * 3
    assert found['stage'] == 4


@pytest.mark.parametrize('kind', ['detector', 'segmentor', 'classifier'])
def test_a_place_in_the_image_is_found_in_the_input(request: pytest.FixtureRequest, kind: str) -> None:
    """A white square is where its centre is expected, in an image that is resized and, for some, cropped."""
    folder = request.getfixturevalue(kind)
    init_default_scope(Config.fromfile(folder / 'model.py').default_scope)
    image = np.zeros((200, 320, 3), np.uint8)
    image[84:116, 144:184] = 255
    seen = prepare_input(open_inferencer(folder / 'model.py', folder / 'model.pth', 'cpu'), image)
    assert seen.picture.shape != image.shape
    rows, columns = np.nonzero(seen.picture[..., 0] > 127)
    found = seen.from_image(np.array([164, 100]))
    assert found == pytest.approx((columns.mean() + 0.5, rows.mean() + 0.5), abs=1)
    assert seen.to_image(found) == pytest.approx((164, 100))
    values = torch.zeros(1, 1)
    assert seen.over_picture(values).shape == seen.picture.shape[:2]


@pytest.mark.parametrize(
    'kind',
    [
        'detector',
        pytest.param('segmentor', marks=pytest.mark.slow),
        pytest.param('classifier', marks=pytest.mark.slow),
    ],
)
def test_attention(
    request: pytest.FixtureRequest,
    kind: str,
    images: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The position is outside of the thin image and, for a classifier, of the crop of another."""
    assert run(request.getfixturevalue(kind), tmp_path, images, '--attention', 20, 25) == 1
    found = read(tmp_path)
    assert 'thin.png: 20 25 is outside of the image, which has 300×2 pixels' in capsys.readouterr().err
    names = [Path(image['file']).stem for image in found['images']]
    assert names == (['tall'] if kind == 'classifier' else ['tall', 'wide'])
    for image in found['images']:
        assert image['position'] == [20, 25]
        assert (tmp_path / image['attention']).is_file()
        blocks = [(block['stage'], block['distance']) for block in image['blocks']]
        assert blocks == [(1, 'short'), (2, 'short'), (3, 'short'), (3, 'long'), (4, 'short')]


@pytest.mark.parametrize(
    ('kind', 'words', 'error'),
    [
        ('detector', ['--box', 0], '--box 0: must be at least 1'),
        ('detector', ['--class', 'circel'], '--class circel: no such class; there are circle'),
        ('detector', ['--class', 'xyz'], '--class xyz: no such class; there are circle, rectangle, triangle'),
        ('detector', ['--stage', 5], '--stage 5: the backbone computes 4 stages'),
        ('detector', ['--score-thr', 2], '--score-thr 2: scores are between 0 and 1'),
        ('segmentor', ['--box', 1], '--box 1: EncoderDecoder predicts no objects; give --class NAME'),
        ('detector', ['--cfg-options', 'model.backbone.type=Other'], 'Other'),
        (
            'segmentor',
            ['--cfg-options', 'model.test_cfg.mode=slide'],
            'the whole image is explained; give --cfg-options model.test_cfg.mode=whole',
        ),
    ],
)
def test_options_that_do_not_fit(
    request: pytest.FixtureRequest,
    kind: str,
    words: list,
    error: str,
    images: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(request.getfixturevalue(kind), tmp_path / 'out', images, *words) == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith('error')]
    assert error in line
    assert not (tmp_path / 'out').exists()


def test_images_without_the_object_are_skipped_with_the_reason(
    detector: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / 'text.jpg').write_text('text')
    words = [tmp_path / 'text.jpg', images / 'wide.png', tmp_path / 'none']
    assert run(detector, tmp_path / 'out', *words, '--box', 7, '--score-thr', 0) == 1
    assert 'no object 7' in capsys.readouterr().err
    skipped = {Path(record['file']).name: record['reason'] for record in read(tmp_path / 'out')['skipped']}
    assert skipped == {
        'none': 'no such file',
        'text.jpg': 'cannot be read as an image',
        'wide.png': 'there are 3 objects with a score of 0 or more, no object 7',
    }
    assert run(detector, tmp_path / 'out', images / 'wide.png', '--score-thr', 1) == 1
    assert 'no object has a score of 1 or more: the best has' in capsys.readouterr().err


def test_files_of_the_user_are_not_replaced(
    detector: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / 'maps').mkdir()
    (tmp_path / 'maps' / 'wide.png').write_text('mine')
    assert run(detector, tmp_path, images, '--score-thr', 0) == 1
    assert 'was not written by this project' in capsys.readouterr().err
    assert (tmp_path / 'maps' / 'wide.png').read_text() == 'mine'
