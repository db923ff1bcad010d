"""Every tool with invalid inputs: one line that names the input, and no files written."""

import os
import runpy
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

from crossformer_mm.data.datasets import set_num_classes
from crossformer_mm.data.shapes import CLASSES, write_coco
from crossformer_mm.utils.errors import UserError

TOOLS = Path(__file__).parents[2] / 'tools'
NOWHERE = '/proc/nowhere'  # a folder that root cannot make either

# {} stands for the invalid input; all others are valid.
TAKE_CONFIG = {
    'train': 'train {} --data-root data --work-dir work',
    'test': 'test {} good.pth --data-root data --work-dir work',
    'infer': 'infer image.png --config {} --checkpoint good.pth --out out',
    'get_flops': 'get_flops {} --shape 64 64',
    'check_dataset': 'check_dataset {} --data-root data --out out',
    'convert': 'convert_checkpoint good.pth out.pth --verify {}',
}
CONFIGS = ['gone.py', 'empty.py', 'folder', 'binary.py', 'broken.py', 'unknown.py', 'number.py', 'config.txt']
TOOLS_AND_CONFIGS = [
    (tool, file)
    for tool in TAKE_CONFIG
    for file in CONFIGS
    if tool != 'check_dataset' or file not in ('unknown.py', 'number.py')
]  # that one asks the config for data, and builds no model
TAKE_CHECKPOINT = {
    'test': 'test narrow.py {} --data-root data --work-dir work',
    'infer': 'infer image.png --config narrow.py --checkpoint {} --out out',
    'convert': 'convert_checkpoint {} out.pth',
    'pretrained': 'train narrow.py --data-root data --work-dir work --pretrained {}',
    'load': 'train narrow.py --data-root data --work-dir work --load {}',
    'resume': 'train narrow.py --data-root data --work-dir work --resume {}',
}
ADDRESS = 'https://a.org/b.pth'
CHECKPOINTS = ['gone.pth', 'empty.pth', 'folder', 'cut.pth', 'text.pth', 'foreign.pth', 'list.pth', ADDRESS]
TRAIN = 'train narrow.py --data-root data --work-dir work'
TEST = 'test narrow.py good.pth --data-root data --work-dir work'
INFER = 'infer image.png --config narrow.py --checkpoint good.pth --out out'
CHECK = 'check_dataset narrow.py --data-root data --out out'
BENCHMARK = 'benchmark t --size 64 --rounds 1 --measure time --out out/b'
CONVERT = 'convert_checkpoint good.pth out.pth'
# The last words of each are invalid, and the message must name them.
OTHERS = [
    (TRAIN, '--batch-size 0'),
    (TRAIN, '--batch-size -3'),
    (TRAIN, '--batch-size many'),
    (TRAIN, '--batch-size Auto'),
    (TRAIN, '--log diary'),
    (TRAIN, '--accumulate 0'),
    (TRAIN, '--clip-grad -1'),
    (TRAIN, '--clip-grad inf'),
    (TRAIN, '--stop-on-nan -1'),
    (TRAIN, '--amp float8'),
    (TRAIN, '--amp float16'),
    (TRAIN, '--launcher sge'),
    (TRAIN, '--launcher pytorch'),
    (TRAIN, '--data-root gone'),
    (TRAIN, '--data-root narrow.py'),
    (TRAIN, '--train-ann gone.json'),
    (TRAIN, '--train-images gone'),
    (TRAIN, '--classes 3'),
    (TRAIN, '--work-dir narrow.py'),
    (TRAIN, '--work-dir narrow.py/deeper'),
    (TRAIN, f'--work-dir {NOWHERE}'),
    (TRAIN, '--cfg-options train_cfg'),
    (TRAIN, '--cfg-options zzz=1'),
    (TRAIN, '--cfg-options model.backbone.arch=xxl'),
    (TRAIN, '--cfg-options model.backbone.group_sizes=[0,7,7,7]'),
    (TRAIN, '--cfg-options model.backbone.drop_path_rate=2'),
    (TRAIN, '--cfg-options train_dataloader.batch_size=0'),
    (TRAIN, '--cfg-options train_dataloader.num_workers=-1'),
    (TRAIN, '--cfg-options optim_wrapper=None'),
    (TRAIN, '--cfg-options optim_wrapper=5'),
    (TRAIN, '--cfg-options optim_wrapper.type=AmpWrapper'),
    (TRAIN, '--cfg-options optim_wrapper.constructor=Foo'),
    (TRAIN, '--cfg-options optim_wrapper.accumulative=2'),
    (TRAIN, '--cfg-options optim_wrapper.optimizer.type=AdamX'),
    (TRAIN, '--cfg-options optim_wrapper.optimizer.lrr=1'),
    (TRAIN, '--cfg-options optim_wrapper.optimizer.lr=-1'),
    (TRAIN, '--cfg-options param_scheduler.0.type=Foo'),
    (TRAIN, '--cfg-options param_scheduler.1.gama=0.1'),
    (TRAIN, '--cfg-options param_scheduler.0.start_factor=3'),
    (TRAIN, '--cfg-options default_hooks.logger.interval=0'),
    (TRAIN, '--cfg-options default_hooks.logger.intervall=5'),
    (TRAIN, '--cfg-options default_hooks.logger.priority=SOON'),
    (TRAIN, '--cfg-options default_hooks.checkpoint.type=Checkpoint'),
    (TRAIN, '--cfg-options custom_hooks.0.type=EMA'),
    (TRAIN, '--cfg-options randomness.seed=-1'),
    (TRAIN, '--cfg-options randomness.seed=4294967295'),
    (TRAIN, '--cfg-options randomness.seed=abc'),
    (TRAIN, '--cfg-options train_cfg=None'),
    (TRAIN, '--cfg-options train_cfg.type=Loop'),
    (TRAIN, '--cfg-options train_cfg.max_epoch=3'),
    (TRAIN, '--cfg-options train_cfg.max_epochs=many'),
    (TRAIN, '--cfg-options train_cfg.val_interval=0'),
    (TRAIN, '--cfg-options val_cfg=None'),
    (TRAIN, '--cfg-options val_cfg.type=Loop'),
    (TRAIN, '--cfg-options val_cfg.fp_16=True'),
    (TRAIN, '--cfg-options train_dataloader.batchsize=2'),
    (TRAIN, '--cfg-options train_dataloader.prefetch_factor=-1'),
    (TRAIN, '--cfg-options train_dataloader.sampler.type=Sampler'),
    (TRAIN, '--cfg-options train_dataloader.sampler.shufle=True'),
    (TRAIN, '--cfg-options train_dataloader.batch_sampler.type=Foo'),
    (TRAIN, '--cfg-options train_dataloader.collate_fn.type=foo'),
    (TRAIN, '--cfg-options train_dataloader.dataset.type=CocoData'),
    (TRAIN, '--cfg-options train_dataloader.dataset.filter=1'),
    (TRAIN, '--cfg-options train_dataloader.dataset.pipeline.0.type=LoadImage'),
    (TRAIN, '--cfg-options train_dataloader.dataset.pipeline.2.scal=1'),
    (TRAIN, '--cfg-options train_dataloader.dataset.pipeline.3.prob=2'),
    (TRAIN, '--cfg-options val_evaluator.type=CocoMetrics'),
    (TRAIN, '--cfg-options val_evaluator.metrik=bbox'),
    (TRAIN, '--cfg-options visualizer.type=Painter'),
    (TRAIN, '--cfg-options visualizer.vis_backends.0.type=Tensorboard'),
    (TRAIN, '--cfg-options log_processor.type=Log'),
    (TRAIN, '--cfg-options log_processor.window=5'),
    (TEST, '--cfg-options test_dataloader.dataset.pipeline.1.type=Resizer'),
    (TEST, '--cfg-options test_evaluator.type=CocoMetrics'),
    (TEST, '--cfg-options test_cfg.type=Loop'),
    (TRAIN, '--no-such-option'),
    (TEST, '--data-root gone'),
    (TEST, '--val-ann gone.json'),
    (TEST, '--val-images gone'),
    (TEST, '--work-dir narrow.py'),
    (TEST, f'--work-dir {NOWHERE}'),
    (TEST, f'--out {NOWHERE}/r.json'),
    (TEST, '--out folder'),
    (TEST, '--show-dir narrow.py'),
    (TEST, f'--show-dir {NOWHERE}'),
    (TEST, f'--plots {NOWHERE}'),
    (TEST, '--format-only'),
    (TEST, '--tta'),
    (INFER, '--score-thr 2'),
    (INFER, '--score-thr nan'),
    (INFER, '--batch-size 0'),
    (INFER, '--device abacus'),
    (INFER, '--device cuda:99'),
    (INFER, '--device cpu:7'),
    (INFER, '--device meta'),
    (INFER, '--out narrow.py'),
    (INFER, f'--out {NOWHERE}'),
    (INFER, '--cfg-options model.backbone.arch=xxl'),
    ('infer --config narrow.py --checkpoint good.pth --out out', 'gone.png'),
    ('infer --config narrow.py --checkpoint good.pth --out out', 'folder'),
    ('infer --config narrow.py --checkpoint good.pth --out out', 'gone/*.png'),
    ('get_flops narrow.py', '--shape 0 64'),
    ('get_flops narrow.py', '--shape -64 64'),
    ('get_flops narrow.py', '--shape 999999 999999'),
    ('get_flops narrow.py', '--shape 64'),
    ('get_flops narrow.py', '--cfg-options model.backbone.arch=xxl'),
    ('model_zoo --out zoo.md', '--configs gone'),
    ('model_zoo --out zoo.md', '--configs folder'),
    ('model_zoo --out zoo.md', '--configs narrow.py'),
    ('model_zoo', '--out gone/zoo.md'),
    ('model_zoo', '--out folder'),
    (CHECK, '--sample 0'),
    (CHECK, '--sample -1'),
    (CHECK, '--show 0'),
    (CHECK, '--out narrow.py'),
    (CHECK, f'--out {NOWHERE}'),
    (BENCHMARK, '--size 0'),
    (BENCHMARK, '--size 64xx64'),
    (BENCHMARK, '--size 99999'),
    (BENCHMARK, '--batch 0'),
    (BENCHMARK, '--rounds 0'),
    (BENCHMARK, '--threads 0'),
    (BENCHMARK, '--dtype float8'),
    (BENCHMARK, '--mode sleep'),
    (BENCHMARK, '--device abacus'),
    (BENCHMARK, '--device cuda:99'),
    (BENCHMARK, '--against swin_xxl'),
    (BENCHMARK, '--out narrow.py/b'),
    (BENCHMARK, f'--out {NOWHERE}/b'),
    ('benchmark --size 64 --out out/b', 'crossformer_xxl'),
    ('benchmark --size 64 --out out/b', 't+nothing'),
    ('benchmark --size 64 --out out/b', 't+large+standard'),
    ('benchmark --size 64 --out out/b', 't+map+window'),
    ('benchmark --size 64 --out out/b', 'swin_t+window'),
    (CONVERT, '--to classifier'),
    (CONVERT, '--to segmentor'),
    ('convert_checkpoint good.pth', 'out.zip'),
    ('convert_checkpoint good.pth', 'good.pth'),
    ('convert_checkpoint good.pth', 'folder.pth'),
    ('convert_checkpoint good.pth', 'gone/out.pth'),
    ('convert_checkpoint good.pth', f'{NOWHERE}/out.pth'),
    ('convert_checkpoint good.pth', 'mine.pth'),
    ('doctor', '--fast'),
    ('demo', 'tracker'),
    ('demo', '--fast'),
]


@pytest.fixture(scope='module')
def folder(narrow_config: Callable[[str], Config], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Valid files (``narrow.py``, ``good.pth``, ``data``, ``image.png``), and invalid ones."""
    folder = tmp_path_factory.mktemp('inputs')
    cfg = narrow_config('mask_rcnn_crossformer_s')
    cfg.dump(folder / 'narrow.py')
    text = (folder / 'narrow.py').read_text()
    write_coco(folder / 'data', train=2, val=1, size=64)
    cv2.imwrite(str(folder / 'image.png'), np.zeros((40, 50, 3), np.uint8))
    init_default_scope('mmdet')
    set_num_classes(cfg.model, len(CLASSES))
    weights = {'state_dict': MODELS.build(cfg.model).state_dict(), 'meta': {}}
    weights['meta']['dataset_meta'] = {'classes': CLASSES}
    torch.save(weights, folder / 'good.pth')
    whole = (folder / 'good.pth').read_bytes()

    (folder / 'folder').mkdir()
    (folder / 'folder.pth').mkdir()
    texts = {
        'empty.py': '',
        'broken.py': 'model = dict(\n',
        'number.py': text.replace("type='MaskRCNN'", 'type=7'),
        'unknown.py': text.replace("type='MaskRCNN'", "type='MaskBCNN'"),
        'config.txt': text,
        'empty.pth': '',
        'text.pth': 'the weights\n',
        'mine.pth': 'not to be overwritten\n',
    }
    for name, content in texts.items():
        (folder / name).write_text(content)
    (folder / 'binary.py').write_bytes(bytes(range(256)))
    (folder / 'cut.pth').write_bytes(whole[: len(whole) // 2])
    torch.save({'conv1.weight': torch.ones(2, 2), 'fc.bias': torch.ones(2)}, folder / 'foreign.pth')
    torch.save([torch.ones(2)], folder / 'list.pth')
    return folder


@pytest.fixture
def refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Iterator[Callable[[str, str], str]]:
    """A function that runs a command line in ``folder``, as ``python tools/NAME.py`` does; it must refuse."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr('logging.raiseExceptions', False)  # handlers of earlier tests have lost their streams

    def run(line: str, named: str) -> str:
        name, *words = line.split()
        monkeypatch.setattr(sys, 'argv', [f'{name}.py', *words])
        before = listing(folder)
        with pytest.raises(SystemExit) as end:
            runpy.run_path(str(TOOLS / f'{name}.py'), run_name='__main__')
        return check(end.value.code, capfd.readouterr().err, named, before, folder)

    yield run


def check(status: int, err: str, named: str, before: dict, folder: Path) -> str:
    """Check how a tool ended; return its line."""
    assert status in (1, 2), err
    assert 'Traceback' not in err
    errors = [line for line in err.splitlines() if 'error: ' in line]
    assert len(errors) == 1, err
    assert err.splitlines()[-1] == errors[0]
    assert named in errors[0]
    assert len(errors[0].split()) > len(named.split()) + 3, 'it says what is wrong and what to do'
    assert listing(folder) == before
    return errors[0]


def listing(folder: Path) -> dict[str, tuple[int, int]]:
    """The content of a folder, with bytes and times of files, which show when a file is written again."""
    found = {path: path.stat() for path in folder.rglob('*') if '__pycache__' not in path.parts}
    return {str(path): (stat.st_size, stat.st_mtime_ns) for path, stat in found.items() if path.is_file()} | {
        str(path): (0, 0) for path in found if path.is_dir()
    }


@pytest.mark.parametrize(('tool', 'file'), TOOLS_AND_CONFIGS)
def test_configs(tool: str, file: str, refused: Callable[[str, str], str]) -> None:
    refused(TAKE_CONFIG[tool].format(file), file)


@pytest.mark.parametrize('file', CHECKPOINTS)
@pytest.mark.parametrize('option', TAKE_CHECKPOINT)
def test_checkpoints(option: str, file: str, refused: Callable[[str, str], str]) -> None:
    refused(TAKE_CHECKPOINT[option].format(file), file)


@pytest.mark.parametrize(
    ('line', 'words'),
    [
        # a run is built for each of these; every second one shows the same
        pytest.param(
            *case, marks=[pytest.mark.slow] * (case[0] == TRAIN and 'cfg-options' in case[1] and i % 2)
        )
        for i, case in enumerate(OTHERS)
    ],
    ids=[f'{line.split()[0]} {words}' for line, words in OTHERS],
)
def test_options(line: str, words: str, refused: Callable[[str, str], str]) -> None:
    # a setting by its last name, all else by the option or the file; or by the value alone
    setting, _, value = words.split()[-1].rpartition('=')
    name = setting.rpartition('.')[2] or value
    line = refused(f'{line} {words}', '')
    assert words.split()[0] in line or name in line or value in line


def test_debug_shows_the_traceback(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, 'argv', ['get_flops.py', 'gone.py', '--debug'])
    with pytest.raises(UserError, match=r'gone\.py: no such config file'):
        runpy.run_path(str(TOOLS / 'get_flops.py'), run_name='__main__')


@pytest.mark.slow
@pytest.mark.parametrize(
    ('line', 'named'),
    [
        ('train.py gone.py', 'gone.py'),
        ('test.py narrow.py gone.pth --data-root data --work-dir work', 'gone.pth'),
        ('infer.py gone.png --config narrow.py --checkpoint good.pth --out out', 'gone.png'),
        ('convert_checkpoint.py gone.pth out.pth', 'gone.pth'),
        ('dist_train.sh', 'usage: tools/dist_train.sh CONFIG PROCESSES'),
        ('dist_test.sh narrow.py good.pth many', 'many'),
    ],
)
def test_tools_as_processes(folder: Path, line: str, named: str) -> None:
    tool, *words = line.split()
    start = ['bash'] if tool.endswith('.sh') else [sys.executable]
    before, own = listing(folder), {**os.environ, 'PYTHON': sys.executable}
    done = subprocess.run(
        [*start, TOOLS / tool, *words], cwd=folder, env=own, capture_output=True, text=True, check=False
    )
    assert done.stdout == ''
    check(done.returncode, done.stderr, named, before, folder)


def test_permissions(folder: Path, refused: Callable[[str, str], str]) -> None:
    closed = folder / 'closed'
    closed.mkdir()
    (closed / 'narrow.py').touch()
    try:
        (closed / 'narrow.py').chmod(0)
        closed.chmod(0o555)
        if os.access(closed / 'narrow.py', os.R_OK):
            pytest.skip('this user may read and write everything')
        for line in TAKE_CONFIG.values():
            refused(line.format('closed/narrow.py'), 'closed/narrow.py')
        for line in TAKE_CHECKPOINT.values():
            refused(line.format('closed/narrow.py'), 'closed/narrow.py')
        refused(f'{TRAIN} --work-dir closed/work', 'closed')
        refused(f'{TEST} --work-dir closed/work', 'closed')
        refused(f'{INFER} --out closed/out', 'closed')
        refused('convert_checkpoint good.pth closed/out.pth', 'closed')
    finally:
        closed.chmod(0o755)
