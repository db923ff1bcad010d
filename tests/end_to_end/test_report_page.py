"""The page on a training, from real trainings of each kind, and in a browser."""

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mmengine.config import Config
from page_files import ReadPage

from crossformer_mm.data.shapes import write_class_folders
from crossformer_mm.engine import cli
from crossformer_mm.engine import train as train_command
from crossformer_mm.engine.hooks.report import REPORT

NAMES = ('<script>alert(1)</script>', 'прямоугольник & 三角', 'x"y')
LIMIT = 3_000_000  # bytes of a page


def train(*words: Any) -> int:
    """``crossformer train`` in this process."""
    return cli.run(train_command.training_parser(), train_command.train, [*map(str, words)])


def read(folder: Path) -> ReadPage:
    page = (folder / REPORT).read_text('utf-8')
    assert len(page) < LIMIT
    return ReadPage(page)


def last_scores(folder: Path) -> dict[str, float]:
    """The scores of the last validation in the log."""
    lines = max(folder.glob('*/vis_data/scalars.json')).read_text().splitlines()
    return [row for row in map(json.loads, lines) if 'loss' not in row][-1]


@pytest.fixture(scope='module')
def detector(
    narrow_config: Callable[[str], Config], coco_root: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The work folder of a Mask R-CNN of two epochs, with class names that are no names."""
    folder = tmp_path_factory.mktemp('detector')
    shutil.copytree(coco_root, folder / 'data')
    for path in (folder / 'data' / 'annotations').glob('*.json'):
        content = json.loads(path.read_text())
        for category, name in zip(content['categories'], NAMES, strict=True):
            category['name'] = name
        path.write_text(json.dumps(content))
    cfg = narrow_config('mask_rcnn_crossformer_s')
    cfg.train_cfg.update(max_epochs=2, val_interval=1)
    cfg.default_hooks.logger.interval = 1
    cfg.dump(folder / 'run.py')
    words = ['--data-root', folder / 'data', '--work-dir', folder / 'work', '--lr', '0.001', '--seed', '1']
    assert train(folder / 'run.py', *words) == 0
    return folder / 'work'


@pytest.mark.slow
def test_the_page_of_a_detector_agrees_with_the_log(detector: Path) -> None:
    page, scores = read(detector), last_scores(detector)
    text = ' '.join(page.text)
    assert page.tags.count('script') == 1
    tables = [row for row in page.rows if row and row[0] in NAMES and len(row) == 8]
    assert [row[0] for row in tables] == [*NAMES, *NAMES]
    for kind, rows in (('bbox', tables[:3]), ('segm', tables[3:])):
        means = [float(row[2]) for row in rows if row[2] != '–']
        assert sum(means) / len(means) == pytest.approx(scores[f'coco/{kind}_mAP'], abs=6e-4)
    best = re.search(r'(\S+) best box mAP, epoch (\d)', text)
    assert float(best[1]) >= scores['coco/bbox_mAP'] - 1e-4
    for part in ('run: finished', 'epoch 2 of 2', 'instance segmentation', '--lr 0.001 --seed 1', '64×64'):
        assert part in text, part
    assert 'F1' in text, 'the score of an image is explained'
    assert len(page.images) == 6 + 3, 'samples, and each image of the validation once'
    config = (detector / 'run.py').read_text()
    assert re.search(r'ann_file', config)
    assert 'ann_file' in text


@pytest.mark.slow
def test_a_resumed_training_shows_the_curves_of_both_runs(detector: Path, tmp_path: Path) -> None:
    shutil.copytree(detector, tmp_path / 'work')
    cfg = Config.fromfile(detector / 'run.py')
    cfg.train_cfg.max_epochs = 3
    cfg.dump(tmp_path / 'run.py')
    assert train(tmp_path / 'run.py', '--work-dir', tmp_path / 'work', '--resume', '--no-val') == 0
    page = read(tmp_path / 'work')
    text = ' '.join(page.text)
    assert 'resumed at iteration 6' in text
    assert 'epoch 3 of 3' in text
    assert 'Scores of the validations' in text
    assert 'Images of the validation' not in text


@pytest.mark.slow
def test_the_page_of_a_classifier(narrow_classifier: Callable[[str], Config], tmp_path: Path) -> None:
    write_class_folders(tmp_path / 'data', train=8, val=6, size=32)
    for folder in (tmp_path / 'data').glob('*/circle'):
        folder.rename(folder.with_name('<b>круг'))
    cfg = narrow_classifier('crossformer_s_in1k')
    cfg.train_cfg.update(max_epochs=1, val_interval=1)
    cfg.default_hooks.logger.interval = 1
    cfg.dump(tmp_path / 'run.py')
    words = ['--data-root', tmp_path / 'data', '--work-dir', tmp_path / 'work']
    words += ['--layer-decay', '0.7', '--early-stop', '2', '--augment', 'light']
    assert train(tmp_path / 'run.py', *words) == 0
    page, scores = read(tmp_path / 'work'), last_scores(tmp_path / 'work')
    text = ' '.join(page.text)
    for part in (
        'layer decay 0.7 ',
        'early stop after 2 validations',
        'augmentation RandomResizedCrop, RandomFlip ',
    ):
        assert part in text, part
    rows = {row[0]: row for row in page.rows if len(row) == 5}
    assert set(rows) == {'class', '<b>круг', 'rectangle', 'triangle'}
    images = {name: int(row[1]) for name, row in rows.items() if name != 'class'}
    right = sum(float(rows[name][2]) / 100 * count for name, count in images.items() if count)
    assert 100 * right / sum(images.values()) == pytest.approx(scores['accuracy/top1'], abs=0.1)
    assert any('the score that is predicted for its true class' in part for part in page.text)


BROWSER = shutil.which('chromium') or shutil.which('google-chrome')


@pytest.mark.slow
@pytest.mark.skipif(not BROWSER, reason='neither chromium nor google-chrome is installed')
def test_in_a_browser(detector: Path, tmp_path: Path) -> None:
    """The script sorts the tables, and nothing is loaded from elsewhere."""
    page = (detector / REPORT).read_text('utf-8')
    press = "document.querySelectorAll('th')[1].querySelector('button').click();"
    clicked = tmp_path / 'clicked.html'
    clicked.write_text(page.replace('</script></body>', press + '</script></body>'), 'utf-8')
    log = tmp_path / 'net.json'
    command = [BROWSER, '--headless', '--no-sandbox', '--disable-gpu', f'--log-net-log={log}', '--dump-dom']
    command += ['--disable-background-networking', '--disable-component-update', '--no-first-run']
    command += ['--enable-logging=stderr', f'--user-data-dir={tmp_path / "profile"}', clicked.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert 'CONSOLE' not in done.stderr
    dom = ReadPage(done.stdout)
    (table,) = {tuple(row[0] for row in dom.rows[1:4])}
    counts = [int(row[1]) for row in dom.rows[1:4]]
    assert sorted(table) == sorted(NAMES)
    assert counts == sorted(counts, reverse=True)
    assert dom.tags.count('button') > 8
    hosts = set(re.findall(r'"url":"https?://([^/"]+)', log.read_text()))
    own = ('.google.com', '.googleapis.com', '.gvt1.com')  # what the browser itself asks at its start
    assert not [host for host in hosts if not host.endswith(own)]
