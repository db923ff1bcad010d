"""Evaluating segmentation: the metrics, the files that are written, and invalid input."""

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

from crossformer_mm.data.datasets import set_num_classes
from crossformer_mm.engine import cli
from crossformer_mm.engine import test as test_command
from crossformer_mm.evaluation.segmentation_report import class_scores, class_table, count_confusions
from crossformer_mm.utils.files import files_in

NAMES = ('sky', 'road', 'moon')  # the moon never occurs


@pytest.fixture(scope='module')
def folder(narrow_segmentor: Callable[[str], Config], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``narrow.py``, weights for three classes and for two, and images whose maps count from 1."""
    folder = tmp_path_factory.mktemp('report')
    (folder / 'names.txt').write_text('\n'.join(NAMES))
    rng = np.random.default_rng(0)
    for place, size in (('a', (45, 71)), ('town/a', (40, 40))):
        labels = rng.integers(0, 3, size, np.uint8)
        labels[0, :5] = 255
        for kind, values in (('images', rng.integers(0, 255, (*size, 3), np.uint8)), ('annotations', labels)):
            path = folder / 'data' / kind / 'validation' / f'{place}.png'
            path.parent.mkdir(parents=True, exist_ok=True)
            assert cv2.imwrite(str(path), values)
    cfg = narrow_segmentor('fpn_crossformer_t')
    cfg.dump(folder / 'narrow.py')
    init_default_scope('mmseg')
    torch.manual_seed(0)
    for count in (3, 2):
        set_num_classes(cfg.model, count)
        torch.save({'state_dict': MODELS.build(cfg.model).state_dict()}, folder / f'{count}.pth')
    return folder


@pytest.fixture
def test(folder: Path, tmp_path: Path) -> Callable[..., tuple[int, dict[str, float]]]:
    """``tools/test.py`` in this process: its exit status and numbers."""

    def call(*words: str | Path, weights: str = '3.pth') -> tuple[int, dict[str, float]]:
        numbers: dict[str, float] = {}
        known = [folder / 'narrow.py', folder / weights, '--data-root', folder / 'data']
        known += ['--classes', folder / 'names.txt', '--work-dir', tmp_path / 'work']
        status = cli.run(
            test_command.evaluation_parser(),
            lambda options: numbers.update(test_command.evaluate(options)),
            list(map(str, (*known, *words))),
        )
        return status, numbers

    return call


def by_hand(truths: Path, written: Path) -> float:
    """mIoU of PNG files, in percent."""
    paths = [(path, written / path.relative_to(truths)) for path in truths.rglob('*.png')]
    pairs = [[cv2.imread(str(path), cv2.IMREAD_UNCHANGED) for path in pair] for pair in paths]
    truth, found = (np.concatenate([labels.ravel() for labels in side]) for side in zip(*pairs, strict=True))
    counted = (truth != 0) & (truth != 255)
    truth, found = truth[counted], found[counted]
    both = [((truth == value) & (found == value)).sum() for value in (1, 2, 3)]
    either = [((truth == value) | (found == value)).sum() for value in (1, 2, 3)]
    return 100 * float(np.mean([b / e for b, e in zip(both, either, strict=True) if e]))


@pytest.mark.parametrize('tta', [(), pytest.param(('--tta',), marks=pytest.mark.slow)])
def test_numbers_are_those_of_the_files(
    test: Callable[..., tuple[int, dict]], folder: Path, tmp_path: Path, tta: tuple[str, ...]
) -> None:
    places = {'--out': tmp_path / 'out', '--show-dir': tmp_path / 'show', '--plots': tmp_path / 'plots'}
    words = [word for pair in places.items() for word in pair]
    status, numbers = test('--reduce-zero-label', *words, *tta)
    assert status == 0
    truths = folder / 'data' / 'annotations' / 'validation'
    assert numbers['mIoU'] == pytest.approx(by_hand(truths, tmp_path / 'out'))
    assert 'Acc/moon' not in numbers
    assert {'mAcc', 'aAcc', 'IoU/sky', 'Acc/road'} <= set(numbers)
    for name in ('a.png', 'town/a.png'):
        height, width = cv2.imread(str(tmp_path / 'show' / name)).shape[:2]
        assert width > 1.5 * height
    assert {path.name for path in files_in(tmp_path / 'plots')} == {'iou.png', 'confusion_matrix.png'}


def test_label_maps_without_any_truth(
    test: Callable[..., tuple[int, dict]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ['--tta', '--format-only', '--val-ann', 'nowhere', '--out', tmp_path / 'out']
    words += ['--show-dir', tmp_path / 'show']
    assert test(*words) == (0, {})
    for name in ('a.png', 'town/a.png'):
        labels = cv2.imread(str(tmp_path / 'out' / name), cv2.IMREAD_UNCHANGED)
        assert set(np.unique(labels)) <= {0, 1, 2}
        assert (tmp_path / 'show' / name).is_file()
    assert test(*words[1:]) == (0, {}), 'the same again'
    (tmp_path / 'out/town/a.png').write_text('mine')
    assert test(*words[1:]) == (1, {})
    assert 'out/town/a.png exists, and was not written by this project' in capsys.readouterr().err
    assert (tmp_path / 'out/town/a.png').read_text() == 'mine'


@pytest.mark.parametrize(
    ('words', 'message'),
    [
        (['--format-only'], '--format-only needs --out DIR'),
        (['--out', 'r.json'], 'label maps need a folder'),
        (['--out', 'file'], '--out file: file is a file, not a folder'),
        (['--out', 'DATA/annotations/training'], '/annotations/training contains the data'),
        (['--show-dir', 'DATA/images/validation/new'], '/images/validation contains the data'),
        (['--plots', 'DATA/annotations'], 'contains the data /'),
        (['--work-dir', 'DATA/images/validation/work'], '/images/validation contains the data'),
        (
            ['--out', 'o', '--show-dir', 'o/../o'],
            '--out and --show-dir would both write o/../o/a.png',
        ),
        (
            ['--out', 'o', '--cfg-options', 'test_evaluator.type=IoUMetric'],
            'need the evaluator SegmentationReport',
        ),
    ],
)
def test_what_cannot_be(
    test: Callable[..., tuple[int, dict]],
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path('file').touch()
    status, _ = test(*[word.replace('DATA', str(folder / 'data')) for word in words])
    error = capsys.readouterr().err
    assert (status, error.count('\n')) == (1, 1)
    assert message in error
    assert not (tmp_path / 'work').exists()


def test_weights_for_other_classes(test: Callable, capsys: pytest.CaptureFixture[str]) -> None:
    status, _ = test(weights='2.pth')
    assert status == 1
    assert 'decode_head.conv_seg.weight (2×' in capsys.readouterr().err


def test_weights_of_a_detector(test: Callable, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({'state_dict': {'roi_head.bbox_head.fc_cls.weight': torch.ones(4, 8)}}, tmp_path / 'box.pth')
    status, _ = test(weights=str(tmp_path / 'box.pth'))
    error = capsys.readouterr().err
    assert (status, error.count('\n')) == (1, 1)
    assert 'unexpected: roi_head.bbox_head.fc_cls.weight' in error


def test_scores_leave_out_what_never_occurs() -> None:
    truth, found = torch.tensor([[0, 0, 1, 255]]), torch.tensor([[0, 1, 1, 2]])
    counts = count_confusions(truth, found, 3, 255).numpy()
    np.testing.assert_array_equal(counts, [[1, 1, 0], [0, 1, 0], [0, 0, 0]])
    ious, accuracies = class_scores(counts)
    np.testing.assert_allclose(ious, [50, 50, np.nan])
    np.testing.assert_allclose(accuracies, [50, 100, np.nan])
    assert '| moon  | –' in class_table(counts, NAMES)
