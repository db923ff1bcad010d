"""``--log``: what TensorBoard's own reader finds after a training, also after a resume."""

from collections.abc import Callable
from pathlib import Path

import pytest
from mmengine.config import Config
from mmengine.registry import VISBACKENDS
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from crossformer_mm.engine import backends, cli
from crossformer_mm.engine import train as train_command
from crossformer_mm.engine.tracking import set_services
from crossformer_mm.utils.errors import UserError

TENSORBOARD = ['--log', 'tensorboard']


@pytest.fixture(scope='module')
def narrow(narrow_config: Callable[[str], Config], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A narrow config as a file, with validations after each epoch of three iterations."""
    cfg = narrow_config('mask_rcnn_crossformer_pp_s')
    cfg.train_dataloader.batch_size = 2
    cfg.default_hooks.logger.interval = 1
    path = tmp_path_factory.mktemp('config') / 'narrow.py'
    cfg.dump(path)
    return path


def train(*words: object) -> int:
    return cli.run(train_command.training_parser(), train_command.train, list(map(str, words)))


def events(work: Path) -> EventAccumulator:
    """What TensorBoard reads of the only training in a work folder."""
    (folder,) = work.glob('tensorboard/*')
    found = EventAccumulator(str(folder), size_guidance={'images': 0})
    return found.Reload()


def steps(found: EventAccumulator, tag: str) -> list[int]:
    return [event.step for event in found.Scalars(tag)]


@pytest.mark.slow
def test_tensorboard_of_a_training_that_resumes_from_an_earlier_checkpoint(
    narrow: Path, coco_root: Path, tmp_path: Path
) -> None:
    words = [narrow, '--data-root', coco_root, '--work-dir', tmp_path, *TENSORBOARD]
    assert train(*words, '--epochs', 2) == 0
    whole = events(tmp_path)
    assert steps(whole, 'loss') == steps(whole, 'lr') == [1, 2, 3, 4, 5, 6]
    assert steps(whole, 'coco/bbox_mAP') == steps(whole, 'coco/segm_mAP') == [3, 6]
    assert whole.Tags()['images'] == [f'predictions/{i}' for i in (1, 2, 3)]
    assert [event.step for event in whole.Images('predictions/3')] == [3, 6]
    assert whole.Images('predictions/1')[0].width > whole.Images('predictions/1')[0].height  # side by side

    assert train(*words, '--epochs', 2, '--resume', tmp_path / 'epoch_1.pth') == 0
    resumed = events(tmp_path)
    assert steps(resumed, 'loss') == [1, 2, 3, 4, 5, 6]
    assert steps(resumed, 'coco/bbox_mAP') == [3, 6]
    assert [event.step for event in resumed.Images('predictions/1')] == [3, 6]
    values = [[event.value for event in found.Scalars('loss')] for found in (whole, resumed)]
    assert values[0] == values[1]


def test_a_missing_package(config: Callable[[str], Config], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends.TensorBoardBackend, 'package', 'no_such_package')
    with pytest.raises(UserError, match='no_such_package: not installed; pip install no_such_package'):
        set_services(config('demo_mask_rcnn'), ['tensorboard'])


def test_a_service_that_refuses(
    narrow: Path,
    coco_root: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def refuse() -> None:
        raise UserError('--log tensorboard: not today')

    monkeypatch.setattr(backends.TensorBoardBackend, 'check', refuse)
    assert train(narrow, '--data-root', coco_root, '--work-dir', tmp_path / 'work', *TENSORBOARD) == 1
    assert capsys.readouterr().err == 'error: --log tensorboard: not today\n'
    assert not (tmp_path / 'work').exists()


def test_services_beside_those_of_the_config(config: Callable[[str], Config]) -> None:
    cfg = config('demo_semantic_fpn')
    cfg.visualizer.vis_backends.append({'type': 'TensorboardVisBackend'})
    for _ in range(2):  # the config in the work folder has them already
        set_services(cfg, ['tensorboard', 'tensorboard'])
        names = [backend['type'] for backend in cfg.visualizer.vis_backends]
        assert names == ['LocalVisBackend', 'TensorBoardBackend']
        assert [hook['type'] for hook in cfg.custom_hooks] == ['CurvesHook', 'TrackingHook']
        assert all(map(VISBACKENDS.get, names))
