"""A classifier's weights from a released file through training, evaluation and conversion to a detector."""

import shutil
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from checkpoint_files import CLASSES, backbone, classifier_state, save_classifier
from mmengine.config import Config

from crossformer_mm.checkpoint import read_checkpoint
from crossformer_mm.checkpoint.names import released_of
from crossformer_mm.engine import cli
from crossformer_mm.engine import convert as convert_command
from crossformer_mm.engine import test as test_command
from crossformer_mm.engine import train as train_command

pytestmark = pytest.mark.slow

NAMES = ('cat', 'dog', 'emu')
SIZE = 32
LINEAR = ['head.weight', 'head.bias']
STILL = ['--cfg-options', 'optim_wrapper.optimizer.lr=0']  # keep the weights as they were loaded


@pytest.fixture(scope='module')
def folder(
    narrow_config: Callable[[str], Config],
    config: Callable[[str], Config],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """Images of three classes, configs of a classifier and a detector, and a released file of ten classes."""
    folder = tmp_path_factory.mktemp('classifier')
    generator = np.random.default_rng(0)
    for split, count in (('train', 4), ('val', 2)):
        for name in NAMES:
            (folder / 'data' / split / name).mkdir(parents=True)
            for i in range(count):
                image = generator.integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
                cv2.imwrite(str(folder / 'data' / split / name / f'{i}.png'), image)
    detector = narrow_config('mask_rcnn_crossformer_s')
    detector.train_cfg.max_epochs = 1
    detector.dump(folder / 'detector.py')
    classifier = config('crossformer_s_in1k')
    classifier.train_cfg.max_epochs = 1
    classifier.model.backbone.arch = detector.model.backbone.arch
    classifier.model.head.update(in_channels=256, num_classes=len(NAMES))
    classifier.model.data_preprocessor.num_classes = len(NAMES)
    for loader in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
        classifier[loader].update(num_workers=0, persistent_workers=False, batch_size=4)
        classifier[loader].dataset.data_root = str(folder / 'data')
        for step in classifier[loader].dataset.pipeline:
            step.update({key: SIZE for key in ('scale', 'crop_size') if key in step})
    classifier.val_evaluator = classifier.test_evaluator = {'type': 'Accuracy', 'topk': 1}
    classifier.dump(folder / 'classifier.py')
    save_classifier(folder / 'released.pth', classifier_state(backbone(detector.model.backbone.arch)))
    return folder


def run(command: object, *words: object) -> int:
    parser, function = {
        'train': (train_command.training_parser, train_command.train),
        'test': (test_command.evaluation_parser, test_command.evaluate),
        'convert': (convert_command.conversion_parser, convert_command.convert),
    }[command]
    return cli.run(parser(), function, [str(word) for word in words])


def log_of(work_dir: Path) -> str:
    """The log of the latest run there."""
    return max(work_dir.glob('*/*.log')).read_text()


@pytest.fixture(scope='module')
def tuned(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The work folder of an epoch from a released file, which is gone afterwards."""
    work, source = tmp_path_factory.mktemp('tuned'), tmp_path_factory.mktemp('source') / 'released.pth'
    shutil.copyfile(folder / 'released.pth', source)
    assert run('train', folder / 'classifier.py', '--work-dir', work, '--finetune', source, *STILL) == 0
    source.unlink()
    return work


def test_fine_tuning_replaces_the_linear_layer_alone(folder: Path, tuned: Path) -> None:
    start = read_checkpoint(folder / 'released.pth')['model']
    saved = released_of(torch.load(tuned / 'epoch_1.pth', weights_only=False)['state_dict'])
    assert saved.keys() == start.keys()
    assert [name for name, tensor in start.items() if not torch.equal(saved[name], tensor)] == LINEAR
    log = log_of(tuned)
    assert 'another number of classes than the model (10, not 3); 2 tensors are not loaded, but init' in log
    assert log.count('head.fc.weight, head.fc.bias') == 1 and 'no pretrained weights' not in log


def test_fine_tuning_resumes_without_the_file(folder: Path, tuned: Path, tmp_path: Path) -> None:
    shutil.copytree(tuned, tmp_path / 'work')
    words = [folder / 'classifier.py', '--work-dir', tmp_path / 'work', '--finetune', 'gone.pth', '--resume']
    assert run('train', *words, *STILL, 'train_cfg.max_epochs=2') == 0
    states = [
        torch.load(tmp_path / 'work' / f'epoch_{epoch}.pth', weights_only=False)['state_dict']
        for epoch in (1, 2)
    ]
    torch.testing.assert_close(*states, rtol=0, atol=0)
    assert 'another number of classes' not in log_of(tmp_path / 'work')


def test_the_same_number_of_classes_keeps_the_linear_layer(folder: Path, tuned: Path, tmp_path: Path) -> None:
    assert run('convert', tuned / 'epoch_1.pth', tmp_path / 'released.pth', '--to', 'released') == 0
    words = [folder / 'classifier.py', '--work-dir', tmp_path / 'work']
    assert run('train', *words, '--finetune', tmp_path / 'released.pth', *STILL) == 0
    states = [
        torch.load(work / 'epoch_1.pth', weights_only=False)['state_dict']
        for work in (tuned, tmp_path / 'work')
    ]
    torch.testing.assert_close(*states, rtol=0, atol=0)
    assert 'another number of classes' not in log_of(tmp_path / 'work')


def test_a_released_file_is_evaluated_as_it_is(folder: Path, tuned: Path, tmp_path: Path) -> None:
    assert run('convert', tuned / 'epoch_1.pth', tmp_path / 'released.pth', '--to', 'released') == 0
    parse = test_command.evaluation_parser().parse_args
    numbers = [
        test_command.evaluate(
            parse([str(folder / 'classifier.py'), str(file), '--work-dir', str(tmp_path / 'w')])
        )
        for file in (tuned / 'epoch_1.pth', tmp_path / 'released.pth')
    ]
    assert numbers[0] == numbers[1] and numbers[0].keys() == {'accuracy/top1'}


def test_a_released_file_of_other_classes_is_not_evaluated(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [folder / 'classifier.py', folder / 'released.pth', '--work-dir', tmp_path / 'w']
    assert run('test', *words) == 1
    message = capsys.readouterr().err
    assert f'of another shape: head.fc.weight ({CLASSES}×256, not 3×256)' in message
    assert message.startswith('error: ') and message.count('\n') == 1


def test_a_detector_starts_from_a_classifiers_checkpoint(
    folder: Path, tuned: Path, coco_root: Path, tmp_path: Path
) -> None:
    words = [folder / 'detector.py', '--data-root', coco_root, '--work-dir', tmp_path / 'work']
    assert run('train', *words, '--pretrained', tuned / 'epoch_1.pth', *STILL) == 0
    start = torch.load(tuned / 'epoch_1.pth', weights_only=False)['state_dict']
    saved = torch.load(tmp_path / 'work' / 'epoch_1.pth', weights_only=False)['state_dict']
    names = [name for name in start if name.startswith('backbone.')]
    assert names == [name for name in saved if name.startswith('backbone.')]
    torch.testing.assert_close(*({n: state[n] for n in names} for state in (start, saved)), rtol=0, atol=0)
    assert '0 of another shape; long_distance map (noted in the file); left out: head\n' in log_of(
        tmp_path / 'work'
    )
