"""Training, evaluation and resuming on tiny data, and invalid inputs for them."""

import contextlib
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import pytest
import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from crossformer_mm.checkpoint.meta import dataset_meta_of, implied_layout
from crossformer_mm.engine import cli, runner
from crossformer_mm.engine import test as test_command
from crossformer_mm.engine import train as train_command
from crossformer_mm.utils.errors import UserError
from crossformer_mm.utils.locks import locked

TOOLS = Path(__file__).parents[2] / 'tools'
VAL = 'annotations/instances_val2017.json'
TRAIN = 'annotations/instances_train2017.json'


@pytest.fixture(scope='module')
def narrow(narrow_config: Callable[[str], Config], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A narrow config as a file; all scores count, since its network is hardly trained."""
    cfg = narrow_config('mask_rcnn_crossformer_pp_s')
    cfg.train_cfg.max_epochs = 1
    cfg.model.test_cfg.rcnn.score_thr = 0.0
    path = tmp_path_factory.mktemp('config') / 'narrow.py'
    cfg.dump(path)
    return path


@pytest.fixture(scope='module')
def trained(narrow: Path, coco_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The work folder of one epoch by the tool itself."""
    work_dir = tmp_path_factory.mktemp('trained')
    words = [narrow, '--data-root', coco_root, '--work-dir', work_dir, '--cfg-options', 'randomness.seed=0']
    subprocess.run([sys.executable, TOOLS / 'train.py', *words], check=True, cwd=work_dir)
    return work_dir


def log_of(work_dir: Path) -> str:
    """The log of the latest run there."""
    return max(work_dir.glob('*/*.log')).read_text()


def test_training_leaves_a_checkpoint_and_a_log(trained: Path) -> None:
    checkpoint = torch.load(trained / 'epoch_1.pth', weights_only=False)
    assert tuple(checkpoint['meta']['dataset_meta']['classes']) == ('circle', 'rectangle', 'triangle')
    assert checkpoint['state_dict']['roi_head.bbox_head.fc_cls.weight'].shape[0] == 4
    assert implied_layout(checkpoint).layouts == ('map',)
    log = log_of(trained)
    assert log.count('3 classes: circle, rectangle, triangle') == 1
    assert 'WARNING - no pretrained weights' in log
    assert re.search(r'Epoch\(train\) +\[1\]\[3/3\] .* eta: .* loss_mask: ', log)
    assert 'coco/bbox_mAP: ' in log
    config = Path(re.search(r'evaluate it: crossformer test (\S+) ', log)[1])
    assert config.parent == trained, 'the config that has the data filled in'
    assert 'ann_file' in config.read_text()


def test_evaluation_agrees_with_pycocotools(
    trained: Path, narrow: Path, coco_root: Path, tmp_path: Path
) -> None:
    shutil.copytree(trained, tmp_path / 'work')
    before = listing(tmp_path / 'work')
    words = [narrow, trained / 'epoch_1.pth', '--data-root', coco_root, '--work-dir', tmp_path / 'work']
    words += ['--out', tmp_path / 'out' / 'results.json', '--show-dir', tmp_path / 'drawn']
    words += ['--plots', tmp_path / 'plots']
    numbers = test_command.evaluate(test_command.evaluation_parser().parse_args(list(map(str, words))))
    log = log_of(tmp_path / 'work')
    assert f'plots: written to {tmp_path / "plots"}' in log
    assert f'pictures: written to {tmp_path / "drawn"}' in log
    for kind in ('bbox', 'segm'):
        stats = by_hand(coco_root / VAL, tmp_path / 'out' / f'results.{kind}.json', kind)
        ours = [value for name, value in numbers.items() if f'/{kind}_' in name]
        assert ours[:12] == pytest.approx(stats)
        assert f'{kind}_mAP/triangle' in log
        for plot in ('precision_recall', 'confusion_matrix'):
            assert cv2.imread(str(tmp_path / 'plots' / f'{kind}_{plot}.png')) is not None
    assert len(re.findall(r'Average (Precision|Recall)', log)) == 24
    drawn = cv2.imread(str(tmp_path / 'drawn' / '000000000001.png'))
    assert drawn.shape[1] > 1.9 * drawn.shape[0]  # the truth and, beside it, the prediction
    assert before.items() <= listing(tmp_path / 'work').items(), "the training's files are as they were"


@pytest.mark.slow
def test_only_the_first_process_writes_the_metrics(
    trained: Path, narrow: Path, coco_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ['--data-root', coco_root, '--work-dir', tmp_path]
    monkeypatch.setattr(runner, 'is_main_process', lambda: False)
    assert evaluate(narrow, trained / 'epoch_1.pth', *words) == 0
    assert not list(tmp_path.glob('*/*.json'))


def by_hand(annotations: Path, results: Path, kind: str) -> list[float]:
    """The metrics that pycocotools computes from the files."""
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(annotations)
        evaluation = COCOeval(truth, truth.loadRes(str(results)), kind)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation.stats.tolist()


def test_results_without_evaluation_for_images_without_annotations(
    trained: Path, narrow: Path, own_root: Path, tmp_path: Path
) -> None:
    whole = json.loads((own_root / VAL).read_text())
    image_info = own_root / 'annotations' / 'image_info_test.json'
    image_info.write_text(json.dumps({key: whole[key] for key in ('images', 'categories')}))
    words = ['--data-root', own_root, '--val-ann', 'annotations/image_info_test.json', '--format-only']
    words += ['--out', tmp_path / 'results.json', '--work-dir', tmp_path / 'work']
    assert evaluate(narrow, trained / 'epoch_1.pth', *words) == 0
    for kind in ('bbox', 'segm'):
        records = json.loads((tmp_path / f'results.{kind}.json').read_text())
        assert {record['image_id'] for record in records} == {1, 2, 3}
    assert 'Average Precision' not in log_of(tmp_path / 'work')


@pytest.mark.parametrize(
    ('words', 'message'),
    [
        (['--format-only'], '--format-only needs --out NAME.json'),
        (['--format-only', '--out', 'r.json', '--plots', 'p'], '--plots needs an evaluation'),
        (['--out', 'file/r.json'], '--out file: file is a file, not a folder'),
        (['--out', '.'], '--out .: is a folder; give a file name'),
        (['--plots', 'file'], '--plots file: file is a file, not a folder'),
        (['--show-dir', 'file/deeper/still'], '--show-dir file/deeper/still: file is a file, not a folder'),
        (['--tta'], 'has no tta_pipeline and tta_model'),
    ],
)
def test_outputs_that_cannot_be(
    narrow: Path,
    coco_root: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path('file').touch()
    status = evaluate(narrow, 'no.pth', '--data-root', coco_root, '--work-dir', 'work', *words)
    assert message in refusal(capsys, status, tmp_path / 'work')
    assert [path.name for path in tmp_path.iterdir()] == ['file']


def test_plots_need_this_projects_evaluator(
    narrow: Path, coco_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ['--data-root', coco_root, '--work-dir', tmp_path / 'work', '--plots', tmp_path / 'plots']
    words += ['--cfg-options', 'test_evaluator.type=CocoMetric']
    status = evaluate(narrow, 'no.pth', *words)
    assert 'the config has CocoMetric' in refusal(capsys, status, tmp_path / 'work')


@pytest.mark.parametrize(
    ('settings', 'named'),
    [
        (
            ['model.backbone.arch.embed_dims=64', 'model.neck.in_channels=[64,128,256,512]'],
            r'another shape: backbone\.patch_embed\.projs\.0\.weight \(16×3×4×4, not 32×3×4×4\)',
        ),
        (['model.backbone.arch.depths=(1,1,5,1)'], r'missing: backbone\.layers\.2\.blocks\.4\.'),
        (['model.roi_head.mask_head.num_convs=5'], r'missing: roi_head\.mask_head\.convs\.4\.conv\.weight'),
        (
            ['model.roi_head.mask_head.num_convs=3'],
            r'unexpected: roi_head\.mask_head\.convs\.3\.conv\.weight',
        ),
    ],
    ids=['wider', 'deeper', 'more head', 'less head'],
)
def test_checkpoint_of_another_model(
    trained: Path,
    narrow: Path,
    coco_root: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    settings: list[str],
    named: str,
) -> None:
    words = ['--data-root', coco_root, '--work-dir', tmp_path / 'work', '--cfg-options', *settings]
    status = evaluate(narrow, trained / 'epoch_1.pth', *words)
    assert re.search(named, refusal(capsys, status, tmp_path / 'work'))


def test_checkpoint_of_another_number_of_classes(
    trained: Path, narrow: Path, own_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without class names, as converted files of some releases are."""
    state = torch.load(trained / 'epoch_1.pth', weights_only=False)['state_dict']
    torch.save({'state_dict': state}, tmp_path / 'nameless.pth')
    data = json.loads((own_root / VAL).read_text())
    data['categories'].append({'id': 9, 'name': 'star'})
    (own_root / VAL).write_text(json.dumps(data))
    words = ['--data-root', own_root, '--work-dir', tmp_path / 'work']
    message = refusal(capsys, evaluate(narrow, tmp_path / 'nameless.pth', *words), tmp_path / 'work')
    assert 'roi_head.bbox_head.fc_cls.weight (4×32, not 5×32)' in message
    assert '6 of another shape' in message  # weight and bias of classes, boxes and masks


def test_resuming_from_weights_alone(
    trained: Path, narrow: Path, coco_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / 'converted.pth'
    torch.save({'state_dict': torch.load(trained / 'epoch_1.pth', weights_only=False)['state_dict']}, path)
    work_dir = tmp_path / 'work'
    status = train(narrow, '--data-root', coco_root, '--work-dir', work_dir, '--resume', path)
    message = refusal(capsys, status, work_dir)
    assert f'--resume {path}: contains weights without a training state (no optimizer, mess' in message
    assert '--pretrained FILE for the backbone' in message


@pytest.mark.slow
def test_the_testing_tool_prints_the_numbers(trained: Path, narrow: Path, coco_root: Path) -> None:
    words = [narrow, trained / 'best_coco_bbox_mAP_epoch_1.pth', '--data-root', coco_root]
    done = subprocess.run(
        [sys.executable, TOOLS / 'test.py', *words, '--work-dir', trained / 'test'],
        check=True,
        capture_output=True,
        text=True,
    )
    assert len(re.findall(r'Average (Precision|Recall)', done.stdout + done.stderr)) == 24
    assert '| triangle ' in done.stdout + done.stderr


def train(*words: str | Path) -> int:
    return cli.run(train_command.training_parser(), train_command.train, list(map(str, words)))


def evaluate(*words: str | Path) -> int:
    """The exit status of ``tools/test.py``."""

    def main(options: object) -> None:
        test_command.evaluate(options)

    return cli.run(test_command.evaluation_parser(), main, list(map(str, words)))


@pytest.mark.slow
def test_resuming_goes_on_with_the_second_epoch(
    trained: Path, narrow: Path, coco_root: Path, tmp_path: Path
) -> None:
    """It warns of another layout, and leaves the user's config as it is."""
    shutil.copy(trained / 'epoch_1.pth', tmp_path)
    mine = tmp_path / 'narrow.py'
    mine.write_text(f'# mine\n{narrow.read_text()}')
    words = [mine, '--data-root', coco_root, '--work-dir', tmp_path]
    more = ['--cfg-options', 'model.backbone.long_distance=window', 'train_cfg.max_epochs=2']
    assert train(*words, '--resume', tmp_path / 'epoch_1.pth', *more) == 0
    log = log_of(tmp_path)
    assert "was trained with long_distance='map', but the model has 'window'" in log
    assert 'resumed epoch: 1, iter: 3' in log
    assert 'Epoch(train) [1]' not in log
    assert 'no pretrained weights' not in log
    assert torch.load(tmp_path / 'epoch_2.pth', weights_only=False)['meta']['iter'] == 6
    assert mine.read_text() == f'# mine\n{narrow.read_text()}'
    written = re.search(r'narrow\.py is left as it is; the config of this run is (\S+)', log)
    assert 'max_epochs=2' in Path(written[1]).read_text()


def test_a_work_folder_with_other_files_or_another_run_is_refused(
    narrow: Path, coco_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = Path(shutil.copy(narrow, tmp_path))
    words = [mine, '--data-root', coco_root, '--work-dir', tmp_path]
    assert train(*words) == 1
    assert capsys.readouterr().err.startswith(f'error: --work-dir: {mine} exists, and was not written by')
    child = os.fork()
    if not child:
        with locked(tmp_path, '--work-dir'):
            signal.alarm(60)  # if the test fails
            signal.pause()
    while not any(tmp_path.glob('.*lock')):
        time.sleep(0.01)
    assert train(*words) == 1
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert f'error: {tmp_path} is in use by process {child} on ' in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ['.crossformer_mm.lock', 'narrow.py']
    assert mine.read_bytes() == narrow.read_bytes()


@pytest.mark.slow
def test_mmdetections_own_metric_replaces_its_results(
    trained: Path, narrow: Path, coco_root: Path, tmp_path: Path
) -> None:
    words = [narrow, trained / 'epoch_1.pth', '--data-root', coco_root, '--work-dir', tmp_path / 'work']
    words += ['--out', tmp_path / 'r.json', '--cfg-options', 'test_evaluator.type=CocoMetric']
    assert [evaluate(*words), evaluate(*words)] == [0, 0]
    (tmp_path / 'r.segm.json').write_text('mine')
    assert evaluate(*words) == 1
    assert (tmp_path / 'r.segm.json').read_text() == 'mine'


@pytest.mark.parametrize('fast', [False, True])
def test_bfloat16_that_is_slow_is_said(fast: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train_command, 'bfloat16_is_fast', lambda: fast)
    cfg = Config({'model': {}, 'load_from': 'weights.pth', 'optim_wrapper': {'type': 'BFloat16OptimWrapper'}})
    assert ['no bfloat16 instructions' in warning for warning in train_command.start_warnings(cfg)] == [
        True
    ] * (not fast)


@pytest.mark.slow
def test_start_from_a_pretrained_backbone_in_bfloat16(
    trained: Path, narrow: Path, coco_root: Path, tmp_path: Path
) -> None:
    words = [narrow, '--data-root', coco_root, '--work-dir', tmp_path, '--amp', '--resume']
    assert train(*words, '--pretrained', trained / 'epoch_1.pth') == 0
    log = log_of(tmp_path)
    assert 'contains no checkpoint to resume from: training from scratch' in log
    assert 'tensors matched, 0 missing' in log
    assert 'no pretrained weights' not in log
    weights = torch.load(tmp_path / 'epoch_1.pth', weights_only=False)['state_dict']
    assert {tensor.dtype for tensor in weights.values()} == {torch.float32}


@pytest.mark.slow
@pytest.mark.parametrize('option', ['--load', 'load_from'])
def test_start_from_a_complete_model_of_other_classes(
    option: str, trained: Path, narrow: Path, own_root: Path, tmp_path: Path
) -> None:
    for annotations in (own_root / TRAIN, own_root / VAL):
        data = json.loads(annotations.read_text())
        data['categories'].append({'id': 9, 'name': 'star'})
        annotations.write_text(json.dumps(data))
    state = torch.load(trained / 'epoch_1.pth', weights_only=False)['state_dict']
    torch.save({'state_dict': {f'model.{n}': t for n, t in state.items()}}, tmp_path / 'lightning.pth')
    source = [option, tmp_path / 'lightning.pth', '--cfg-options']
    if option == 'load_from':
        source = ['--cfg-options', f'load_from={tmp_path}/lightning.pth']
    settings = ['optim_wrapper.optimizer.lr=0', 'model.backbone.init_cfg.type=Pretrained']
    settings += ['model.backbone.init_cfg.checkpoint=gone.pth']  # not needed
    words = ['--data-root', own_root, '--work-dir', tmp_path / 'work']
    assert train(narrow, *words, *source, *settings) == 0
    log = log_of(tmp_path / 'work')
    assert '6 tensors are not loaded, but initialised: roi_head.bbox_head.fc_cls.weight, ' in log
    assert 'no pretrained weights' not in log
    saved = torch.load(tmp_path / 'work' / 'epoch_1.pth', weights_only=False)['state_dict']
    changed = [name for name, tensor in saved.items() if not torch.equal(tensor, state[name])]
    assert len(changed) == 6


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        pytest.param(
            'segmentor', 'the file holds a segmentor, the model is a detector', marks=pytest.mark.slow
        ),
        ('backbone', 'the file holds a backbone, the model is a detector'),
        (
            'deeper',
            r"the file's arch is dict\(.*\), the model's dict\(.*\)\): .*missing: backbone\.layers\.2\.bl",
        ),
    ],
)
def test_a_model_that_does_not_fit_is_not_started_from(
    change: str,
    message: str,
    trained: Path,
    narrow: Path,
    coco_root: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    state = torch.load(trained / 'epoch_1.pth', weights_only=False)['state_dict']
    backbone = {name: tensor for name, tensor in state.items() if name.startswith('backbone.')}
    files = {
        'segmentor': backbone | {'decode_head.conv_seg.weight': torch.ones(2, 2)},
        'backbone': {name.removeprefix('backbone.'): tensor for name, tensor in backbone.items()},
    }
    torch.save({'state_dict': files.get(change, state)}, tmp_path / 'a.pth')
    words = [narrow, '--data-root', coco_root, '--work-dir', tmp_path / 'work', '--load', tmp_path / 'a.pth']
    if change == 'deeper':
        words += ['--cfg-options', 'model.backbone.arch.depths=(1,1,5,1)']
    assert re.search(message, refusal(capsys, train(*words), tmp_path / 'work'))


@pytest.fixture
def own_root(coco_root: Path, tmp_path: Path) -> Path:
    """A copy of the data that a test may damage."""
    return Path(shutil.copytree(coco_root, tmp_path / 'own'))


def refusal(capsys: pytest.CaptureFixture[str], status: int, work_dir: Path) -> str:
    """Check that a run refused in one line and wrote nothing; return the line."""
    assert status == 1
    message = capsys.readouterr().err
    assert message.startswith('error: ')
    assert message.count('\n') == 1
    assert not work_dir.exists()
    return message


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-30])


def unlist(path: Path) -> None:
    data = json.loads(path.read_text())
    del data['categories'][1]
    path.write_text(json.dumps(data))


@pytest.mark.parametrize(
    ('damaged', 'damage', 'message'),
    [
        (TRAIN, Path.unlink, 'no data at .*instances_train2017.json'),
        (VAL, truncate, 'instances_val2017.json is not valid JSON'),
        (TRAIN, unlist, 'instances_train2017.json .* category_id 2, which "categories" does not list'),
        ('val2017/000000000003.jpg', Path.unlink, '000000000003.jpg is listed .* does not exist'),
        ('val2017', shutil.rmtree, 'no data at .*/val2017'),
    ],
)
def test_broken_data_is_refused_before_anything_is_written(
    narrow: Path,
    own_root: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    damaged: str,
    damage: Callable[[Path], None],
    message: str,
) -> None:
    damage(own_root / damaged)
    work_dir = tmp_path / 'work'
    status = train(narrow, '--data-root', own_root, '--work-dir', work_dir)
    assert re.search(message, refusal(capsys, status, work_dir))


@pytest.mark.slow
@pytest.mark.parametrize(('workers', 'content'), [(0, b'no image'), (1, b'no image'), (1, b'')])
def test_an_unreadable_image_stops_the_run_with_its_name(
    narrow: Path,
    own_root: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    workers: int,
    content: bytes,
) -> None:
    image = own_root / 'train2017' / '000000000004.jpg'
    image.write_bytes(content)
    words = ['--data-root', own_root, '--work-dir', tmp_path / 'work']
    assert train(narrow, *words, '--cfg-options', f'train_dataloader.num_workers={workers}') == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith(f'error: {image} cannot be read as an image; ')


def test_checkpoint_of_other_classes(
    trained: Path, narrow: Path, own_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = json.loads((own_root / VAL).read_text())
    data['categories'][0]['name'] = 'disc'
    (own_root / VAL).write_text(json.dumps(data))
    work_dir = tmp_path / 'work'
    status = evaluate(narrow, trained / 'epoch_1.pth', '--data-root', own_root, '--work-dir', work_dir)
    message = refusal(capsys, status, work_dir)
    assert 'other classes (circle, rectangle, triangle) than the data has (disc, rectangle' in message


@pytest.mark.parametrize(
    'meta',
    [
        {'dataset_meta': {'classes': ['disc']}},
        {'dataset_meta': {'CLASSES': ('disc',)}},
        {'CLASSES': ('disc',)},
    ],
)
def test_class_names_of_every_age_of_checkpoint(meta: dict) -> None:
    dataset = {'type': 'CocoDataset', 'metainfo': {'classes': ('circle',)}}
    cfg = Config({'test_dataloader': {'dataset': dataset}})
    with pytest.raises(UserError, match=r'old\.pth was trained on other classes \(disc\)'):
        test_command.check_classes(cfg, 'old.pth', dataset_meta_of({'meta': meta})['classes'])
    dataset['metainfo']['classes'] = ('disc',)
    same = Config({'test_dataloader': {'dataset': dataset}})
    test_command.check_classes(same, 'old.pth', dataset_meta_of({'meta': meta})['classes'])
    test_command.check_classes(cfg, 'old.pth', ())


def test_checkpoint_that_is_not_there(
    narrow: Path, coco_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    work_dir = tmp_path / 'work'
    status = evaluate(narrow, tmp_path / 'no.pth', '--data-root', coco_root, '--work-dir', work_dir)
    assert 'no.pth' in refusal(capsys, status, work_dir)


def test_no_data_in_place(
    tmp_path: Path, narrow: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert train(narrow) == 1
    assert 'error: no data at data/coco/annotations/instances_train2017.json' in capsys.readouterr().err
    assert not any(tmp_path.iterdir())


def listing(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob('*') if path.is_file()}


@HOOKS.register_module(force=True)
class WritingHook(Hook):
    """Writes files of others into the work folder when it is built, as a run beside this one would."""

    def __init__(self, folder: str) -> None:
        other = Path(folder, '20200101_000000')
        other.mkdir()
        (other / 'other.log').write_text('of another run\n')
        Path(folder, 'notes.txt').write_text('mine\n')


def unarea(path: Path) -> None:
    """Remove what a repair computes again."""
    data = json.loads(path.read_text())
    data['annotations'] = [{**annotation, 'area': None} for annotation in data['annotations']]
    path.write_text(json.dumps(data))


def test_a_run_that_cannot_start_leaves_a_work_folder_as_it_was(
    trained: Path, narrow: Path, own_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """But for what others wrote meanwhile; copies of repaired annotation files are removed."""
    unarea(own_root / TRAIN)
    shutil.copytree(trained, tmp_path / 'work')
    before = listing(tmp_path / 'work')
    cfg = Config.fromfile(narrow)
    cfg.custom_hooks.append({'type': 'WritingHook', 'folder': str(tmp_path / 'work')})
    cfg.optim_wrapper.optimizer.type = 'SGDD'
    cfg.dump(tmp_path / 'narrow.py')
    assert train(tmp_path / 'narrow.py', '--data-root', own_root, '--work-dir', tmp_path / 'work') == 1
    assert list(tmp_path.glob('work/*/instances_train2017*')) == []
    assert capsys.readouterr().err.splitlines()[-1].endswith('unknown type; did you mean SGD or ASGD?')
    after = listing(tmp_path / 'work')
    assert after.pop('notes.txt') == b'mine\n'
    assert after.pop('20200101_000000/other.log') == b'of another run\n'
    assert after == before


@HOOKS.register_module(force=True)
class BrokenHook(Hook):
    """Has a bug in what it does before a checkpoint."""

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        raise AttributeError('a bug')


def test_a_bug_during_a_run_keeps_its_traceback_and_the_log(
    narrow: Path, coco_root: Path, tmp_path: Path
) -> None:
    cfg = Config.fromfile(narrow)
    cfg.custom_hooks.append({'type': 'BrokenHook'})
    cfg.dump(tmp_path / 'narrow.py')
    with pytest.raises(AttributeError, match='a bug'):
        train(tmp_path / 'narrow.py', '--data-root', coco_root, '--work-dir', tmp_path / 'work')
    assert 'Epoch(train)' in log_of(tmp_path / 'work')


def test_an_evaluation_that_runs_out_of_memory_gets_advice_of_its_own(
    trained: Path,
    narrow: Path,
    coco_root: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*args: object) -> None:
        raise MemoryError('out of memory')

    monkeypatch.setattr('crossformer_mm.evaluation.coco_report.CocoReport.process', fail)
    words = ['--data-root', coco_root, '--work-dir', tmp_path / 'work']
    assert evaluate(narrow, trained / 'epoch_1.pth', *words) == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert 'test_dataloader.num_workers' in last
    assert '--batch-size' not in last
