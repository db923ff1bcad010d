"""A classifier is trained, evaluated and used for prediction with the tools themselves."""

import json
import subprocess
import sys
from pathlib import Path

import cv2
import pytest

from crossformer_mm.data.shapes import CLASSES, write_class_folders
from crossformer_mm.utils.files import files_in

TOOLS = Path(__file__).parents[2] / 'tools'
NAMES = sorted(CLASSES)


def run(tool: str, *words: str | Path) -> str:
    """What a tool prints."""
    return subprocess.run(
        [sys.executable, TOOLS / tool, *words], check=True, capture_output=True, text=True
    ).stdout


@pytest.mark.slow
def test_train_evaluate_and_predict(tmp_path: Path) -> None:
    data, work = tmp_path / 'data', tmp_path / 'work'
    write_class_folders(data, train=12, val=6, size=64)
    words = ['--data-root', data, '--work-dir', work]
    short = ['train_cfg.max_epochs=2', 'train_dataloader.batch_size=4', 'default_hooks.logger.interval=1']
    run('train.py', 'demo_classifier', *words, '--amp', '--cfg-options', *short)
    height, width = cv2.imread(str(work / 'curves.png')).shape[:2]
    assert width > height > 100

    checkpoint, written = work / 'epoch_2.pth', tmp_path / 'written'
    places = ['--out', written / 'found.json', '--plots', written / 'plots', '--show-dir', written / 'show']
    log = run('test.py', work / 'demo_classifier.py', checkpoint, *words, *places, '--tta')
    found = json.loads((written / 'found.json').read_text())
    accuracy = 100 * sum(image['label'] == image['true_label'] for image in found['images']) / 6
    assert f'accuracy/top1: {accuracy:.4f}' in log
    assert 'accuracy/top5' not in log, 'of three classes'
    assert [row['name'] for row in found['classes']] == NAMES
    assert len(files_in(written / 'show')) == 6

    config = ['--config', work / 'demo_classifier.py', '--checkpoint', checkpoint]
    printed = run('infer.py', data / 'val', *config, '--out', tmp_path / 'out')
    results = json.loads((tmp_path / 'out/results.json').read_text())
    assert results['classes'] == NAMES
    assert len(results['images']) == 6
    assert all(f'{image["file"]}: {image["name"]} ' in printed for image in results['images'])
