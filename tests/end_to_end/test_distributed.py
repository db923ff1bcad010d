"""Two processes on CPUs train like one process, evaluate each image once, and end together."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from torch import nn

from crossformer_mm.data.datasets import set_num_classes
from crossformer_mm.data.shapes import write_ade20k, write_class_folders
from crossformer_mm.engine import cli
from crossformer_mm.engine import test as test_command
from crossformer_mm.engine import train as train_command
from crossformer_mm.engine.hooks.agreement import running_statistics
from crossformer_mm.engine.hooks.report import REPORT

TESTS = Path(__file__).parents[1]
TOOLS = TESTS.parent / 'tools'
VAL = 'annotations/instances_val2017.json'
SEED = 'randomness.seed=1'


def start(folder: Path, tool: str, *words: Any) -> subprocess.Popen:
    """Run a script of ``tools/`` from ``folder``, with its stderr in ``err.txt`` there."""
    path = f'{TESTS}:{TESTS.parent}'
    environment = {**os.environ, 'PYTHON': sys.executable, 'PYTHONPATH': path, 'OMP_NUM_THREADS': '1'}
    for name in ('NNODES', 'PORT'):
        environment.pop(name, None)
    folder.mkdir(exist_ok=True)
    with (folder / 'err.txt').open('w') as err:
        command = ['bash', TOOLS / tool, *words]
        return subprocess.Popen(
            list(map(str, command)), cwd=folder, env=environment, stdout=subprocess.DEVNULL, stderr=err
        )


def finish(folder: Path, process: subprocess.Popen, status: int = 0) -> str:
    """Wait for the end of a script, check its exit status and return its stderr."""
    try:
        process.wait(timeout=240)
    except subprocess.TimeoutExpired:
        for one in [*psutil.Process(process.pid).children(recursive=True), process]:
            one.kill()
        raise
    output = (folder / 'err.txt').read_text()
    assert process.returncode == status, output
    return output


def distributed(folder: Path, tool: str, *words: Any, status: int = 0) -> str:
    """Run a script of ``tools/`` until it ends, check its exit status and return its stderr."""
    return finish(folder, start(folder, tool, *words), status)


def train(*words: Any) -> None:
    """``tools/train.py`` in this process."""
    assert cli.run(train_command.training_parser(), train_command.train, list(map(str, words))) == 0


def evaluate(*words: Any) -> dict[str, float]:
    """The metrics of ``tools/test.py`` in this process."""
    return test_command.evaluate(test_command.evaluation_parser().parse_args(list(map(str, words))))


def scalars(work_dir: Path) -> list[dict[str, Any]]:
    """The values that the latest run there logged."""
    lines = max(work_dir.glob('*/vis_data/scalars.json')).read_text().splitlines()
    return list(map(json.loads, lines))


def losses(work_dir: Path) -> list[dict[str, float]]:
    """The losses of each iteration of the latest run there."""
    return [
        {name: value for name, value in row.items() if 'loss' in name}
        for row in scalars(work_dir)
        if 'loss' in row
    ]


def weights(path: Path) -> dict[str, torch.Tensor]:
    return torch.load(path, weights_only=False)['state_dict']


def without_chance(part: Any) -> None:
    """Switch off randomness in the training step, which would depend on the number of processes."""
    if isinstance(part, dict):
        part.update({name: 0.0 for name in ('drop_path_rate', 'dropout_ratio') if name in part})
        if part.get('type') == 'RandomFlip':
            part['prob'] = 0.0
        if part.get('type') == 'RandomSampler':
            part['num'] = 100_000  # all of them
        for value in part.values():
            without_chance(value)
    elif isinstance(part, list):
        for value in part:
            without_chance(value)


def log_all(cfg: Config) -> None:
    cfg.default_hooks.logger.interval = 1
    cfg.log_processor.window_size = 1


@pytest.fixture(scope='module')
def detector(narrow_config: Callable[[str], Config], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A narrow Mask R-CNN as a file, with two images per process, that logs each iteration."""
    cfg = narrow_config('mask_rcnn_crossformer_s')
    cfg.train_cfg.update(max_epochs=1, val_interval=1)
    cfg.train_dataloader.batch_size = 2
    cfg.model.test_cfg.rcnn.score_thr = 0.0
    log_all(cfg)
    path = tmp_path_factory.mktemp('config') / 'detector.py'
    cfg.dump(path)
    return path


@pytest.fixture(scope='module')
def segmentor(narrow_segmentor: Callable[[str], Config], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A narrow Semantic FPN as a file, four iterations of four images, without data and randomness."""
    cfg = narrow_segmentor('fpn_crossformer_s')
    cfg.train_cfg.update(max_iters=4, val_interval=4)
    cfg.default_hooks.checkpoint.interval = 2
    cfg.model.backbone.drop_path_rate = 0.0
    without_chance(cfg.model)
    log_all(cfg)
    path = tmp_path_factory.mktemp('config') / 'segmentor.py'
    cfg.dump(path)
    return path


@pytest.fixture(scope='module')
def maps(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    """Options for a dataset of label maps with 9 training and 3 validation images."""
    root = tmp_path_factory.mktemp('maps')
    write_ade20k(root, train=9, val=3, size=64)
    return ['--data-root', root, '--classes', root / 'classes.txt', '--reduce-zero-label']


@pytest.mark.slow
def test_two_trainings_at_once_validate_as_one_process_does(
    detector: Path, coco_root: Path, tmp_path: Path
) -> None:
    """Each run finds a free port. Two processes share three validation images."""
    folders = [tmp_path / name for name in ('first', 'second')]
    words = [detector, 2, '--data-root', coco_root, '--log', 'tensorboard', '--work-dir']
    processes = [start(folder, 'dist_train.sh', *words, folder) for folder in folders]
    for folder, process in zip(folders, processes, strict=True):
        finish(folder, process)
        assert len(losses(folder)) == 2  # 6 images in steps of 2 × 2
        assert len([*folder.glob('tensorboard/*/events*')]) == 1, 'of the first process'
    weights = folders[0] / 'epoch_1.pth'
    alone = evaluate(detector, weights, '--data-root', coco_root, '--work-dir', tmp_path / 'alone')
    together = scalars(folders[0])[-1]
    shared = [name for name in alone if name in together]  # the test reports each class as well
    assert len(shared) == 24
    assert [together[name] for name in shared] == pytest.approx([alone[name] for name in shared])
    page = (folders[0] / REPORT).read_text()
    assert len(re.findall(r'left: ground truth', page)) == 3, "the images of both processes' validation"


@pytest.mark.slow
def test_a_segmentor_trains_in_two_processes_as_in_one(
    segmentor: Path, maps: list[Any], tmp_path: Path
) -> None:
    """With equal augmentation, and a norm that treats images separately, unlike BN."""
    norm = ['model.decode_head.norm_cfg.type=GN', 'model.decode_head.norm_cfg.num_groups=4']
    one = [segmentor, *maps, '--work-dir', tmp_path / 'one', '--batch-size', 4]
    two = [segmentor, 2, *maps, '--work-dir', tmp_path / 'two', '--batch-size', 2]
    train(*one, '--cfg-options', SEED, *norm)
    distributed(tmp_path, 'dist_train.sh', *two, '--cfg-options', SEED, *norm)
    assert len(losses(tmp_path / 'one')) == 4
    for alone, together in zip(losses(tmp_path / 'one'), losses(tmp_path / 'two'), strict=True):
        assert together == pytest.approx(alone, rel=1e-4)
    torch.testing.assert_close(
        weights(tmp_path / 'two' / 'iter_4.pth'),
        weights(tmp_path / 'one' / 'iter_4.pth'),
        rtol=1e-3,
        atol=1e-4,
    )


@pytest.mark.slow
def test_a_detector_in_two_processes_trains_as_one_that_accumulates(
    detector: Path, coco_root: Path, tmp_path: Path
) -> None:
    """One image per process, against accumulation over two images: losses are means per process."""
    cfg = Config.fromfile(detector)
    without_chance(cfg.model)
    cfg.model.backbone.drop_path_rate = 0.0
    without_chance(cfg.train_dataloader)
    cfg.param_scheduler = []  # it counts steps
    cfg.train_dataloader.batch_size = 1
    cfg.dump(tmp_path / 'config.py')
    data = ['--data-root', coco_root]
    one = [tmp_path / 'config.py', *data, '--work-dir', tmp_path / 'one', '--accumulate', 2]
    two = [tmp_path / 'config.py', 2, *data, '--work-dir', tmp_path / 'two']
    train(*one, '--cfg-options', SEED)
    distributed(tmp_path, 'dist_train.sh', *two, '--cfg-options', SEED)
    alone, together = losses(tmp_path / 'one'), losses(tmp_path / 'two')
    assert (len(alone), len(together)) == (6, 3)
    for first, second, both in zip(alone[::2], alone[1::2], together, strict=True):
        mean = {name: (first[name] + second[name]) / 2 for name in first}
        assert both == pytest.approx(mean, rel=1e-4)
    torch.testing.assert_close(
        *(weights(tmp_path / name / 'epoch_1.pth') for name in ('one', 'two')), rtol=1e-3, atol=1e-4
    )


@pytest.mark.slow
def test_bn_agrees_and_a_resumed_run_goes_on_the_same(
    segmentor: Path, maps: list[Any], tmp_path: Path
) -> None:
    """The checkpoint reaches the score of the validation, in one process too; --resume is bit-exact.

    In another number of processes it is not, which the log says.
    """
    words = [segmentor, 2, *maps, '--batch-size', 2, '--work-dir']
    distributed(tmp_path, 'dist_train.sh', *words, tmp_path / 'whole', '--cfg-options', SEED)
    validated = scalars(tmp_path / 'whole')[-1]
    alone = evaluate(segmentor, tmp_path / 'whole' / 'iter_4.pth', *maps, '--work-dir', tmp_path / 'alone')
    assert {name: validated[name] for name in ('mIoU', 'mAcc', 'aAcc')} == {
        name: pytest.approx(alone[name]) for name in ('mIoU', 'mAcc', 'aAcc')
    }
    (tmp_path / 'resumed').mkdir()
    shutil.copy(tmp_path / 'whole' / 'iter_2.pth', tmp_path / 'resumed')
    distributed(tmp_path, 'dist_train.sh', *words, tmp_path / 'resumed', '--resume')
    assert losses(tmp_path / 'resumed') == losses(tmp_path / 'whole')[2:]
    torch.testing.assert_close(
        weights(tmp_path / 'resumed' / 'iter_4.pth'),
        weights(tmp_path / 'whole' / 'iter_4.pth'),
        rtol=0,
        atol=0,
    )
    words = [segmentor, *maps, '--batch-size', 2, '--work-dir', tmp_path / 'one']
    train(*words, '--resume', tmp_path / 'whole' / 'iter_2.pth')
    log = next((tmp_path / 'one').glob('*/*.log')).read_text()
    assert 'WARNING - the checkpoint was trained differently' in log and 'processes=1 (was 2)' in log


@pytest.mark.slow
@pytest.mark.parametrize('images', [1, 3])
def test_a_detector_is_evaluated_on_each_image_once(
    detector: Path, coco_root: Path, tmp_path: Path, images: int
) -> None:
    """Odd numbers of images, and one image, in two processes."""
    data = json.loads((coco_root / VAL).read_text())
    data['images'] = data['images'][:images]
    kept = {image['id'] for image in data['images']}
    data['annotations'] = [one for one in data['annotations'] if one['image_id'] in kept]
    annotations = tmp_path / 'few.json'
    annotations.write_text(json.dumps(data))
    save_untrained(detector, tmp_path / 'weights.pth', classes=3)
    words = ['--data-root', coco_root, '--val-ann', annotations, '--out', tmp_path / 'found.json']
    assert_evaluated_alike(tmp_path, detector, words, written=2)


@pytest.mark.slow
@pytest.mark.parametrize('images', [1, 3])
def test_a_segmentor_is_evaluated_on_each_image_once(segmentor: Path, tmp_path: Path, images: int) -> None:
    """Odd numbers of images, and one image, in two processes."""
    root = tmp_path / 'maps'
    write_ade20k(root, train=1, val=images, size=64)
    save_untrained(segmentor, tmp_path / 'weights.pth', classes=4)
    words = ['--data-root', root, '--classes', root / 'classes.txt', '--reduce-zero-label']
    words += ['--out', tmp_path / 'found']
    assert_evaluated_alike(tmp_path, segmentor, words, written=images)
    words += ['--format-only', '--work-dir', tmp_path / 'formatted']
    distributed(tmp_path, 'dist_test.sh', segmentor, tmp_path / 'weights.pth', 2, *words)
    assert f'{images} label maps: written to' in next((tmp_path / 'formatted').glob('*/*.log')).read_text()


@pytest.mark.slow
@pytest.mark.parametrize('images', [1, 5])
def test_a_classifier_is_evaluated_on_each_image_once(
    narrow_classifier: Callable[[str], Config], tmp_path: Path, images: int
) -> None:
    """Odd numbers of images, and one image, in two processes."""
    narrow_classifier('crossformer_t_in1k').dump(tmp_path / 'classifier.py')
    write_class_folders(tmp_path / 'data', train=3, val=images, size=40)
    save_untrained(tmp_path / 'classifier.py', tmp_path / 'weights.pth', classes=3)
    words = ['--data-root', tmp_path / 'data', '--out', tmp_path / 'found.json']
    assert_evaluated_alike(tmp_path, tmp_path / 'classifier.py', words, written=1)


@pytest.mark.slow
def test_a_working_directory_without_room_for_the_exchange_of_results(
    detector: Path, coco_root: Path, tmp_path: Path
) -> None:
    (tmp_path / '.dist_test').write_text('not a folder')
    words = ['--data-root', coco_root, '--work-dir', tmp_path / 'work']
    output = distributed(tmp_path, 'dist_train.sh', detector, 2, *words, status=1)
    assert output.count('error: several processes exchange results in .dist_test, or where') == 1
    assert 'is a file, not a folder' in output
    assert not (tmp_path / 'work').exists()


def save_untrained(config: Path, path: Path, classes: int) -> None:
    """Write the weights that a model starts from."""
    cfg = Config.fromfile(config)
    set_num_classes(cfg.model, classes)
    init_default_scope(cfg.default_scope)
    torch.save({'state_dict': MODELS.build(cfg.model).state_dict()}, path)


def assert_evaluated_alike(folder: Path, config: Path, words: list[Any], written: int) -> None:
    """Check that two processes give the metrics of one, and write the same files."""
    words = [*words, '--work-dir', folder / 'work']
    alone = evaluate(config, folder / 'weights.pth', *words)
    paths = sorted(folder.glob('found*/*.png')) or folder.glob('found.*')
    files = {path: path.read_bytes() for path in paths}
    assert len(files) == written
    for path in files:
        path.unlink()
    distributed(folder, 'dist_test.sh', config, folder / 'weights.pth', 2, *words)
    together = json.loads(max(folder.glob('work/*/*.json')).read_text())
    assert {name: together[name] for name in alone} == {
        name: pytest.approx(value, nan_ok=True) for name, value in alone.items()
    }
    assert {path: path.read_bytes() for path in files} == files


@pytest.mark.slow
@pytest.mark.parametrize(
    ('how', 'line'),
    [
        ('killed', 'Signal 9 (SIGKILL)'),
        ('bug', 'ZeroDivisionError: in the second process'),
        ('mistake', 'error: in the second process'),
    ],
)
def test_a_process_that_fails_ends_the_run(
    detector: Path, coco_root: Path, tmp_path: Path, how: str, line: str
) -> None:
    """The error is printed once, and no process remains."""
    cfg = Config.fromfile(detector)
    cfg.custom_imports.imports.append('failing')
    cfg.custom_hooks = [*cfg.get('custom_hooks', []), {'type': 'FailingHook', 'how': how}]
    cfg.train_cfg.max_epochs = 1000
    cfg.train_dataloader.num_workers = 1
    cfg.dump(tmp_path / 'config.py')
    words = ['--data-root', coco_root, '--work-dir', tmp_path / 'work']
    began = time.monotonic()
    output = distributed(tmp_path, 'dist_train.sh', tmp_path / 'config.py', 2, *words, status=1)
    assert time.monotonic() - began < 90
    assert output.count(line) == 1
    assert processes_of(tmp_path) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ('option', 'line'),
    [
        ('--no-reduce-zero-label', 'which is none of the 4 classes'),  # the first process reads label maps
        ('--batch-size=0', '--batch-size'),  # every process has this error
        ('--no-such-option', 'unrecognized arguments'),
    ],
)
def test_an_error_at_the_start_is_said_once(
    segmentor: Path, maps: list[Any], tmp_path: Path, option: str, line: str
) -> None:
    words = [*maps[:-1], option, '--work-dir', tmp_path / 'work']
    began = time.monotonic()
    output = distributed(tmp_path, 'dist_train.sh', segmentor, 2, *words, status=1)
    assert time.monotonic() - began < 60
    (error,) = [said for said in output.splitlines() if 'error: ' in said]
    assert line in error
    assert not (tmp_path / 'work').exists()


@pytest.mark.slow
@pytest.mark.parametrize('number', [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_no_process_outlives_the_launcher(
    detector: Path, coco_root: Path, tmp_path: Path, number: signal.Signals
) -> None:
    words = [detector, 2, '--data-root', coco_root, '--work-dir', tmp_path / 'work']
    settings = ['train_cfg.max_epochs=1000', 'train_dataloader.num_workers=1']
    launcher = start(tmp_path, 'dist_train.sh', *words, '--cfg-options', *settings)
    try:
        # the launcher, two processes and their workers, which end with each epoch
        while launcher.poll() is None and len(processes_of(tmp_path)) < 5:
            time.sleep(0.05)
        launcher.send_signal(number)
        for _ in range(300):
            if launcher.poll() is not None and not processes_of(tmp_path):
                return
            time.sleep(0.1)
        pytest.fail(f'{processes_of(tmp_path)} still run')
    finally:
        for process in processes_of(tmp_path):
            os.kill(process, signal.SIGKILL)


def processes_of(folder: Path) -> list[int]:
    """The running processes with a path from this folder in their command lines."""
    return [
        process.pid
        for process in psutil.process_iter(['cmdline'])
        if any(str(folder) in word for word in process.info['cmdline'] or [])
    ]


def started(script: str, words: str, **environment: str) -> subprocess.CompletedProcess:
    """The command that a script of ``tools/`` would start, printed instead."""
    return subprocess.run(
        ['bash', str(TOOLS / script), *words.split()],
        env={'PATH': os.environ['PATH'], 'PYTHON': 'echo', **environment},
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize(
    ('script', 'words'),
    [
        ('dist_train.sh', ''),
        ('dist_train.sh', 'config.py'),
        ('dist_train.sh', 'config.py 0'),
        ('dist_train.sh', '--work-dir work config.py 2'),
        ('dist_test.sh', 'config.py weights.pth'),
        ('dist_test.sh', 'config.py 2 weights.pth'),
    ],
)
def test_wrong_words_are_refused_in_one_line(script: str, words: str) -> None:
    done = started(script, words)
    (line,) = done.stderr.splitlines()
    assert (done.returncode, done.stdout) == (2, '')
    assert f'; usage: tools/{script} CONFIG ' in line


@pytest.mark.parametrize(
    ('setting', 'line'),
    [
        ('NNODES=abc', 'must be an integer from 1 to'),
        ('NNODES=0', 'must be an integer from 1 to'),
        ('NODE_RANK=2', 'must be an integer from 0 to 1'),
        ('PORT=70000', 'must be an integer from 1024 to 65535'),
        ('PORT=a[$(id)]', 'must be an integer from 1024 to 65535'),
        ('PYTHON=gone', 'no such program'),
    ],
)
def test_wrong_settings_are_refused_in_one_line(setting: str, line: str) -> None:
    name, value = setting.split('=')
    done = started('dist_train.sh', 'config.py 2', **{'NNODES': '2', name: value})
    (said,) = done.stderr.splitlines()
    assert (done.returncode, done.stdout) == (1, '')
    assert said.startswith('error: ') and value in said and line in said


def test_a_port_in_use_is_refused() -> None:
    with socket.create_server(('127.0.0.1', 0)) as server:
        port = str(server.getsockname()[1])
        done = started('dist_train.sh', 'config.py 2', PORT=port)
        assert started('dist_train.sh', 'config.py 2', PORT=port, NNODES='2', NODE_RANK='1').returncode == 0
    assert (
        done.stderr
        == f'error: PORT={port} is in use on 127.0.0.1; choose another one, the same on all machines\n'
    )


def test_processes_meet_at_a_free_port_or_where_they_are_told() -> None:
    alone = started('dist_test.sh', 'config.py weights.pth 2 --tta').stdout
    assert '--standalone' in alone
    assert alone.endswith('test config.py weights.pth --tta --launcher pytorch\n')
    several = started(
        'dist_train.sh', 'config.py 8', NNODES='2', NODE_RANK='1', MASTER_ADDR='127.0.0.2'
    ).stdout
    assert (
        '--nnodes 2 --node_rank 1 --master_addr 127.0.0.2 --master_port 29500 --nproc_per_node 8' in several
    )
    assert '--master_port 1234' in started('dist_train.sh', 'config.py 2', PORT='1234').stdout


LAUNCHED = """
import argparse, atexit, logging
from torch.utils.data import DataLoader
from crossformer_mm.engine import cli

class Finalised:
    def __del__(self):
        print('finalised')

def main(options):
    atexit.register(print, 'exit function')
    logging.basicConfig(filename='log.txt')
    logging.error('logged')
    kept.all = Finalised(), iter(DataLoader(range(9), num_workers=1, persistent_workers=True))
    print('printed')
    return {'status': lambda: 7, 'bug': lambda: 1 / 0}[options.how]()

parser = argparse.ArgumentParser()
parser.add_argument('how')
parser.add_argument('--launcher')
kept = argparse.Namespace()
raise SystemExit(cli.run(parser, main))
"""


@pytest.mark.parametrize(('how', 'status'), [('status', 7), pytest.param('bug', 1, marks=pytest.mark.slow)])
def test_one_of_several_processes_exits_without_finalising(how: str, status: int, tmp_path: Path) -> None:
    """Finalisation would abort a process with running gloo threads; all output of Python is still written."""
    (tmp_path / 'launched.py').write_text(LAUNCHED)
    done = subprocess.run(
        [sys.executable, str(tmp_path / 'launched.py'), how, '--launcher', 'pytorch'],
        cwd=tmp_path,
        env={**os.environ, 'RANK': '0', 'PYTHONPATH': str(TESTS.parent)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == status, done.stderr
    assert done.stdout.splitlines() == ['printed', 'exit function']
    assert ('ZeroDivisionError' in done.stderr) == (how == 'bug')
    assert (tmp_path / 'log.txt').read_text() == 'ERROR:root:logged\n'
    assert processes_of(tmp_path) == []


FORKED = """
import argparse, atexit, os, signal
from crossformer_mm.engine import cli

def main(options):
    atexit.register(print, 'exit function')
    worker = os.fork()
    if worker == 0:
        os.kill(os.getpid(), signal.SIGTERM)
    print(os.waitstatus_to_exitcode(os.waitpid(worker, 0)[1]))

raise SystemExit(cli.run(argparse.ArgumentParser(), main))
"""


def test_a_terminated_worker_does_not_go_on_as_the_run() -> None:
    """A worker process that is terminated before it has its own handlers has those of the run."""
    done = subprocess.run([sys.executable, '-c', FORKED], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == (0, '143\nexit function\n', '')


def test_bn_that_collects_is_agreed_on() -> None:
    frozen = nn.BatchNorm2d(3).eval()
    model = nn.Sequential(nn.BatchNorm2d(2), nn.SyncBatchNorm(2), nn.LayerNorm(2), nn.ModuleList([frozen]))
    assert running_statistics(model) == [model[0].running_mean, model[0].running_var]
