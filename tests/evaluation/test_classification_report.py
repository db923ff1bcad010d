"""Evaluating and predicting with classifiers: the numbers, the files that are written, and invalid input."""

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
from torch import Tensor

from crossformer_mm.data.datasets import set_num_classes
from crossformer_mm.data.shapes import CLASSES, write_class_folders
from crossformer_mm.engine import cli
from crossformer_mm.engine import test as test_command
from crossformer_mm.engine.infer import infer, inference_parser
from crossformer_mm.engine.inferencer import open_inferencer
from crossformer_mm.evaluation.classification_report import (
    ClassificationReport,
    class_table,
    merge_others,
    most_confused,
)
from crossformer_mm.utils.files import files_in

NAMES = tuple(sorted(CLASSES))
PLOTS = set(ClassificationReport.PLOTS)


def random_scores(images: int, classes: int) -> tuple[Tensor, Tensor]:
    """Scores of a network that is right on about half of the images, and the true labels."""
    generator = torch.Generator().manual_seed(0)
    truths = torch.arange(images) % classes
    logits = torch.randn(images, classes, generator=generator)
    logits[torch.arange(images), truths] += 2
    return logits.softmax(1), truths


def samples_of(scores: Tensor, truths: Tensor, path: str = '') -> list[dict[str, Any]]:
    """What MMPretrain's evaluator gives to metrics."""
    return [
        {
            'pred_score': score,
            'gt_label': truth,
            'pred_label': score.argmax(0, keepdim=True),
            'img_path': path,
        }
        for score, truth in zip(scores, truths.split(1), strict=True)
    ]


def evaluate(samples: list[dict[str, Any]], classes: int, **settings: Any) -> dict[str, float]:
    """The numbers of a report, given in two batches."""
    report = ClassificationReport(**settings)
    report.dataset_meta = {'classes': tuple(f'class {i}' for i in range(classes))}
    half = -(-len(samples) // 2)
    for batch in filter(None, (samples[:half], samples[half:])):
        report.process(None, batch)
    return report.evaluate(len(samples))


@pytest.mark.parametrize(('images', 'classes'), [(400, 7), (1500, 1000), (6, 5)])
def test_numbers_are_those_of_mmpretrain(images: int, classes: int) -> None:
    init_default_scope('mmpretrain')
    import crossformer_mm.mmpretrain_parts  # noqa: F401, before other modules of MMPretrain

    # isort: split
    from mmpretrain.evaluation import Accuracy, SingleLabelMetric

    scores, truths = random_scores(images, classes)
    samples = samples_of(scores, truths)
    theirs = {}
    for metric in (Accuracy(topk=(1, 5)), SingleLabelMetric(items=('precision', 'recall', 'f1-score'))):
        metric.process(None, samples)
        theirs.update(metric.evaluate(images))
    assert evaluate(samples, classes) == pytest.approx(theirs, rel=1e-5)
    assert theirs['accuracy/top1'] > 0


def test_one_image_and_fewer_classes_than_k() -> None:
    (sample,) = samples_of(torch.tensor([[0.2, 0.5, 0.3]]), torch.tensor([2]))
    numbers = evaluate([sample], 3, topk=(1, 2, 5), classwise=True)
    assert {
        'accuracy/top1': 0,
        'accuracy/top2': 100,
        'single-label/recall/class 2': 0,
    }.items() <= numbers.items()
    assert 'accuracy/top5' not in numbers
    assert 'single-label/recall/class 0' not in numbers, 'a class without images'
    assert numbers['single-label/precision'] == 0


def test_of_equal_scores_the_first_class_is_predicted() -> None:
    samples = samples_of(torch.full((4, 4), 0.25), torch.tensor([0, 0, 1, 3]))
    numbers = evaluate(samples, 4, topk=(1, 3))
    assert (numbers['accuracy/top1'], numbers['accuracy/top3']) == (50, 75)


def test_scores_without_a_number_count_as_wrong(tmp_path: Path, logged: list[str]) -> None:
    scores = torch.tensor([[float('nan')] * 3, [0.7, 0.2, 0.1], [1.0, 0.0, 0.0]])
    places = {'out_file': str(tmp_path / 'out.json'), 'plots_dir': str(tmp_path)}
    path = tmp_path / 'image.png'
    cv2.imwrite(str(path), np.zeros((4, 9, 3), np.uint8))
    samples = samples_of(scores, torch.tensor([0, 0, 1]), str(path))
    numbers = evaluate(samples, 3, topk=(1, 3), **places)
    assert '1 of 3 images have no valid score (NaN)' in logged[0]
    assert {file.name for file in files_in(tmp_path)} == {'image.png', 'out.json', *PLOTS}
    assert numbers['accuracy/top1'] == pytest.approx(100 / 3)
    assert numbers['accuracy/top3'] == pytest.approx(100 / 3), 'nor does a score of 0 count'
    first, second, third = json.loads((tmp_path / 'out.json').read_text())['images']
    assert (first['true_label'], first['label'], first['score'], first['top']) == (0, None, None, [])
    assert (second['name'], [best['score'] for best in second['top']]) == ('class 0', [0.7, 0.2, 0.1])
    assert len(third['top']) == 1


@pytest.mark.slow
def test_a_thousand_classes(tmp_path: Path) -> None:
    scores, truths = random_scores(2000, 1000)
    path = tmp_path / 'image.png'
    cv2.imwrite(str(path), np.zeros((300, 20, 3), np.uint8))
    samples = samples_of(scores, truths, str(path))
    numbers = evaluate(samples, 1000, classwise=True, plots_dir=str(tmp_path / 'plots'))
    recalls = [value for name, value in numbers.items() if name.startswith('single-label/recall/')]
    assert len(recalls) == 1000
    assert np.mean(recalls) == pytest.approx(numbers['single-label/recall'])
    assert list(numbers)[-1] == 'accuracy/top5', 'what matters most ends the line of the log'
    sizes = {file.name: cv2.imread(str(file)).shape[:2] for file in files_in(tmp_path / 'plots')}
    assert set(sizes) == PLOTS
    assert all(200 < side < 5000 for size in sizes.values() for side in size)


def test_the_most_confused_classes() -> None:
    counts = np.diag([9] * 6)
    counts[4, 1], counts[2, 5], counts[0, 3] = 8, 7, 1
    assert most_confused(counts, 4) == [1, 2, 4, 5]
    merged = merge_others(counts, [1, 4])
    assert merged.tolist() == [[9, 0, 0], [8, 9, 0], [0, 0, 44]]


def test_a_table_with_a_class_that_does_not_occur() -> None:
    scores = np.array([[50.0, np.nan], [100.0, np.nan], [66.6667, np.nan]])
    lines = class_table(np.array([3, 0]), scores, ['a', 'b']).splitlines()
    rows = [[cell.strip() for cell in line.split('|')[1:-1]] for line in lines if line[0] == '|']
    assert rows[1:] == [['a', '3', '100.00', '50.00', '66.67'], ['b', '0', '–', '–', '–']]


@pytest.fixture(scope='module')
def folder(narrow_classifier: Callable[[str], Config], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``narrow.py``, its weights, and class folders that contain an image and its mirror image."""
    folder = tmp_path_factory.mktemp('report')
    write_class_folders(folder / 'data', train=3, val=3, size=40)
    first = files_in(folder / 'data/val/circle')[0]
    (first.parent / 'deep').mkdir()
    cv2.imwrite(str(first.with_name('image.png')), cv2.imread(str(first)))
    cv2.imwrite(str(first.with_name('deep') / 'mirror.png'), cv2.imread(str(first))[:, ::-1])
    cfg = narrow_classifier('crossformer_t_in1k')
    set_num_classes(cfg.model, len(NAMES))
    cfg.dump(folder / 'narrow.py')
    init_default_scope('mmpretrain')
    torch.manual_seed(0)
    model = MODELS.build(cfg.model)
    torch.nn.init.normal_(model.head.fc.weight)  # so that scores differ
    meta = {'dataset_meta': {'classes': NAMES}}
    torch.save({'state_dict': model.state_dict(), 'meta': meta}, folder / 'weights.pth')
    return folder


@pytest.fixture
def test(folder: Path, tmp_path: Path) -> Callable[..., tuple[int, dict[str, float]]]:
    """``tools/test.py`` in this process: its exit status and numbers."""

    def call(*words: str | Path) -> tuple[int, dict[str, float]]:
        numbers: dict[str, float] = {}
        known = [folder / 'narrow.py', folder / 'weights.pth', '--data-root', folder / 'data']
        status = cli.run(
            test_command.evaluation_parser(),
            lambda options: numbers.update(test_command.evaluate(options)),
            list(map(str, (*known, '--work-dir', tmp_path / 'work', *words))),
        )
        return status, numbers

    return call


def scores_in(path: Path) -> dict[str, list[float]]:
    """The scores of each image in the order of labels, by the name of its file."""
    return {
        Path(image['file']).name: [b['score'] for b in sorted(image['top'], key=lambda b: b['label'])]
        for image in json.loads(path.read_text())['images']
    }


def test_the_numbers_are_those_of_the_file(
    test: Callable[..., tuple[int, dict[str, float]]], folder: Path, tmp_path: Path
) -> None:
    status, numbers = test(
        *('--out', tmp_path / 'out.json', '--plots', tmp_path / 'plots', '--show-dir', tmp_path / 'show')
    )
    written = json.loads((tmp_path / 'out.json').read_text())
    assert status == 0
    assert len(written['images']) == 5
    assert all(
        Path(image['file']).parts[-2 - ('deep' in image['file'])] == image['true_name']
        for image in written['images']
    )
    right = [image['label'] == image['true_label'] for image in written['images']]
    assert numbers['accuracy/top1'] == pytest.approx(100 * np.mean(right))
    assert {row['name']: row['recall'] for row in written['classes']} == pytest.approx(
        {name: numbers[f'single-label/recall/{name}'] for name in NAMES}, abs=1e-3
    )
    assert {path.name for path in files_in(tmp_path / 'plots')} == PLOTS
    height, width = cv2.imread(str(tmp_path / 'show/circle/deep/mirror.png')).shape[:2]
    assert width > 1.3 * height
    assert len(files_in(tmp_path / 'show')) == 5


@pytest.mark.slow
def test_flips_are_averaged(test: Callable[..., tuple[int, dict[str, float]]], tmp_path: Path) -> None:
    assert test('--out', tmp_path / 'plain')[0] == 0
    assert test('--out', tmp_path / 'flipped', '--tta')[0] == 0
    plain, flipped = (scores_in(tmp_path / f'{name}.json') for name in ('plain', 'flipped'))
    mean = np.mean([plain['image.png'], plain['mirror.png']], axis=0)
    assert flipped['image.png'] == pytest.approx(mean, abs=2e-4)
    assert plain['image.png'] != pytest.approx(mean, abs=1e-3)


@pytest.mark.parametrize(
    ('words', 'message'),
    [
        (['--format-only'], '--format-only is for detections and label maps; "crossformer infer" classifies'),
        (['--out', 'DATA'], 'is a folder; give a file name'),
        (['--plots', 'DATA/val/circle/new'], '/val contains the data'),
        (['--out', 'mine.json'], 'mine.json exists, and was not written by this project'),
        (
            ['--plots', 'p', '--cfg-options', 'test_evaluator.type=Accuracy'],
            'need the evaluator ClassificationReport',
        ),
    ],
)
def test_what_cannot_be(
    test: Callable[..., tuple[int, dict[str, float]]],
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path('mine.json').write_text('mine')
    assert test(*(word.replace('DATA', str(folder / 'data')) for word in words)) == (1, {})
    assert message in capsys.readouterr().err


def predict(config: Path, weights: Path, folder: Path, *words: str | Path) -> int:
    """``tools/infer.py`` in this process, to ``out`` in a folder."""
    known = ['--config', config, '--checkpoint', weights, '--device', 'cpu', '--out', folder / 'out']
    return cli.run(inference_parser(), infer, list(map(str, (*words, *known))))


def test_predictions_are_the_same_from_python_and_in_batches(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = tmp_path / 'images'
    images.mkdir()
    for name, size in (('wide', (30, 90)), ('thin', (1, 400)), ('one', (1, 1))):
        pixels = np.random.default_rng(0).integers(0, 255, (*size, 3), np.uint8)
        cv2.imwrite(str(images / f'{name}.png'), pixels)
    (images / 'broken.jpg').write_text('no image')
    larger = 'test_dataloader.dataset.pipeline.2.crop_size=64'  # so that images of several sizes are left
    words = [images, folder / 'data/val/circle', '--batch-size', '4', '--cfg-options', larger]
    assert predict(folder / 'narrow.py', folder / 'weights.pth', tmp_path, *words) == 1, 'a file was skipped'
    results = json.loads((tmp_path / 'out/results.json').read_text())
    assert [skipped['reason'] for skipped in results['skipped']] == ['cannot be read as an image']
    assert results['classes'] == list(NAMES)
    printed = capsys.readouterr().out.splitlines()
    inferencer = open_inferencer(folder / 'narrow.py', folder / 'weights.pth', 'cpu', cfg_options=[larger])
    assert len(results['images']) == 6
    for image in results['images']:
        assert f'{image["file"]}: {image["name"]} {image["score"]:.2f}' in printed
        assert cv2.imread(str(tmp_path / 'out' / image['picture'])) is not None
        scores = {best['label']: best['score'] for best in image['top']}
        (alone,) = inferencer(image['file'])
        assert alone['pred_class'] == image['name']
        assert alone['pred_scores'] == pytest.approx([scores[i] for i in range(3)], abs=1e-3)


def test_scores_without_a_number_are_no_prediction(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = torch.load(folder / 'weights.pth')
    weights['state_dict']['head.fc.weight'].fill_(3e38)
    torch.save(weights, tmp_path / 'huge.pth')
    image = folder / 'data/val/circle/image.png'
    assert predict(folder / 'narrow.py', tmp_path / 'huge.pth', tmp_path, image) == 1
    assert 'image.png: its scores are NaN' in capsys.readouterr().err


def test_released_classifiers_have_the_names_of_imagenet(
    narrow_classifier: Callable[[str], Config], folder: Path, tmp_path: Path
) -> None:
    cfg = narrow_classifier('crossformer_t_in1k')
    cfg.dump(tmp_path / 'narrow.py')
    init_default_scope('mmpretrain')
    torch.save(MODELS.build(cfg.model).state_dict(), tmp_path / 'weights.pth')
    inferencer = open_inferencer(tmp_path / 'narrow.py', tmp_path / 'weights.pth', 'cpu')
    assert (inferencer.classes[0], len(inferencer.classes)) == ('tench, Tinca tinca', 1000)
