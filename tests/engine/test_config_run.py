"""From command-line options to the config of a run."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from mmengine.config import Config
from small_runs import small_run

from crossformer_mm.checkpoint.reader import Checkpoint
from crossformer_mm.data.classes import read_data
from crossformer_mm.engine.config import load_config, quiet_imports
from crossformer_mm.engine.distributed import _check_exchange
from crossformer_mm.engine.runner import _Runner, _write_config
from crossformer_mm.engine.schedule import length_warnings, schedules
from crossformer_mm.engine.test import evaluation_config, evaluation_parser
from crossformer_mm.engine.train import (
    average_weights,
    averages,
    check_work_folder,
    make_resumable,
    open_weights,
    training_config,
    training_parser,
)
from crossformer_mm.utils.errors import UserError
from crossformer_mm.utils.outputs import write_output


@pytest.fixture
def train_with(flat_config: Path, coco_root: Path) -> Callable[..., Config]:
    """A function from words of the command line to the config of a training."""

    def parse(*words: str) -> Config:
        options = training_parser().parse_args([str(flat_config), '--data-root', str(coco_root), *words])
        return training_config(options)

    return parse


def test_nothing_but_data_leaves_the_recipe(train_with: Callable[..., Config]) -> None:
    cfg = train_with()
    assert cfg.work_dir == 'work_dirs/mask_rcnn_crossformer_s'
    assert cfg.optim_wrapper.type == 'OptimWrapper'
    assert cfg.launcher == 'none'
    assert not cfg.resume
    assert cfg.load_from is None
    assert not cfg.auto_scale_lr.enable
    assert cfg.train_dataloader.persistent_workers


def test_work_dir(train_with: Callable[..., Config]) -> None:
    assert train_with('--work-dir', 'there').work_dir == 'there'
    assert train_with('--cfg-options', 'work_dir=mine').work_dir == 'mine'


def test_training_without_validation(train_with: Callable[..., Config]) -> None:
    cfg = train_with('--no-val')
    assert cfg.val_dataloader is cfg.val_cfg is cfg.val_evaluator is None
    assert 'save_best' not in cfg.default_hooks.checkpoint
    assert cfg.default_hooks.checkpoint.max_keep_ckpts == 3
    assert cfg.test_dataloader is not None
    assert not read_data(cfg, ('train_dataloader', 'val_dataloader')).warnings


@pytest.mark.parametrize(
    ('steps', 'epoch', 'words', 'found'),
    [
        (501, 100, (), []),
        (500, 100, (), ['the warm-up of 500 iterations is not shorter than this run of 500']),
        (
            40,
            4,
            ('param_scheduler.0.by_epoch=True', 'param_scheduler.0.end=10'),
            ['warm-up of 40 iterations'],
        ),
        (41, 4, ('param_scheduler.0.by_epoch=True', 'param_scheduler.0.end=10'), []),
        (40, 4, ('param_scheduler.0.start_factor=1', 'param_scheduler.0.end_factor=0.1'), []),  # no warm-up
        (40, 100, ('param_scheduler=None',), ['logger.interval=50: this run of 40 iterations logs no loss']),
        (40, 40, ('param_scheduler=None',), []),  # the end of the epoch is logged
    ],
)
def test_settings_that_are_longer_than_the_run(
    train_with: Callable[..., Config], steps: int, epoch: int, words: tuple[str, ...], found: list[str]
) -> None:
    cfg = train_with(*(['--cfg-options', *words] if words else []))
    interval = cfg.default_hooks.logger.interval
    warnings = length_warnings(schedules(cfg.get('param_scheduler')), interval, steps, epoch)
    assert len(warnings) == len(found)
    assert all(part in warning for part, warning in zip(found, warnings, strict=True))


def test_auto_scaled_learning_rate(train_with: Callable[..., Config]) -> None:
    assert train_with('--auto-scale-lr').auto_scale_lr == {'enable': True, 'base_batch_size': 16}
    with pytest.raises(UserError, match='the batch size that its learning rate is for'):
        train_with('--auto-scale-lr', '--cfg-options', 'auto_scale_lr={}')


def test_auto_scaling_reckons_with_accumulation(
    train_with: Callable[..., Config], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Batches of 3 images and 4 steps per update: 3 × 4 / 16 of the rate; the config says the same again."""
    cfg = train_with('--auto-scale-lr', '--accumulate', '4')
    assert cfg.auto_scale_lr == {'enable': True, 'base_batch_size': 16}
    monkeypatch.setattr('small_runs.Runner', _Runner)
    runner = small_run(tmp_path, cfg=cfg)
    wrapper = runner.build_optim_wrapper(runner.optim_wrapper)
    runner.scale_lr(wrapper, runner.cfg.auto_scale_lr)
    assert wrapper.optimizer.param_groups[0]['lr'] == pytest.approx(0.1 * 3 * 4 / 16)
    assert runner.cfg.auto_scale_lr == cfg.auto_scale_lr


def test_batch_memory_and_gradients(train_with: Callable[..., Config]) -> None:
    words = ['--batch-size', '3', '--accumulate', '4', '--clip-grad', '0.5', '--with-cp', '--freeze', '2']
    cfg = train_with(*words)
    assert cfg.model.backbone.frozen_stages == 2
    assert cfg.train_dataloader.batch_size == 3
    assert cfg.optim_wrapper.accumulative_counts == 4
    assert cfg.optim_wrapper.clip_grad == {'max_norm': 0.5}
    assert cfg.model.backbone.with_cp


def test_averages_of_weights(train_with: Callable[..., Config]) -> None:
    assert not averages(train_with())
    cfg = train_with('--ema')
    assert cfg.custom_hooks[-1].type == 'EMAHook'
    with pytest.raises(UserError, match='--ema: the config averages the weights already'):
        average_weights(cfg)


def test_layers_augmentation_and_the_end(train_with: Callable[..., Config]) -> None:
    words = ['--layer-decay', '0.75', '--augment', 'strong', '--early-stop', '3', '--image-size', '400']
    cfg = train_with(*words)
    assert cfg.optim_wrapper.paramwise_cfg == {'decay_rate': 0.75}
    assert cfg.train_dataloader.dataset.dataset.pipeline[-1] == {'type': 'Pad', 'size': (512, 512)}
    assert cfg.custom_hooks[-1].type == 'EarlyStopHook'
    for setting in ('train_dataloader.dataset.pipeline=[]', 'optim_wrapper.constructor=Own'):
        with pytest.raises(UserError, match='--augment strong' if 'pipeline' in setting else '--layer-decay'):
            train_with(*words[:4], '--cfg-options', setting)
    with pytest.raises(UserError, match='--early-stop 3: needs a validation set; leave out --no-val'):
        train_with('--early-stop', '3', '--no-val')


def test_rate_workers_and_seed(train_with: Callable[..., Config]) -> None:
    cfg = train_with('--lr', '0.003', '--workers', '0', '--seed', '7')
    assert cfg.optim_wrapper.optimizer.lr == 0.003
    assert cfg.randomness.seed == 7
    for loader in (cfg.train_dataloader, cfg.val_dataloader):
        assert (loader.num_workers, loader.persistent_workers) == (0, False)


@pytest.mark.parametrize(
    ('words', 'message'),
    [
        (['--batch-size', '0'], '--batch-size 0: must be at least 1'),
        (['--accumulate', '-1'], '--accumulate -1: must be at least 1'),
        (['--stop-on-nan', '-1'], '--stop-on-nan -1: must be at least 0'),
        (['--workers', '-1'], '--workers -1: must be at least 0'),
        (['--seed', '-1'], '--seed -1: must be at least 0'),
        (['--seed', str(2**31)], '--seed 2147483648: must be below 2147483648'),
        (['--lr', '0'], r'--lr 0\.0: must be a number above 0, such as 1e-4'),
        (['--epochs', '0'], '--epochs 0: must be at least 1'),
        (['--iters', '100'], 'counts its training in epochs; give --epochs N'),
        (['--clip-grad', '0'], r'--clip-grad 0\.0: must be a number above 0'),
        (['--clip-grad', 'nan'], '--clip-grad nan: must be a number above 0'),
    ],
)
def test_numbers_that_make_no_sense(
    train_with: Callable[..., Config], words: list[str], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        train_with(*words)


def test_loop_and_checkpoints_are_those_that_survive(train_with: Callable[..., Config]) -> None:
    cfg = train_with()
    assert cfg.train_cfg.type == 'ResumableEpochLoop'
    assert cfg.default_hooks.checkpoint.type == 'AtomicCheckpointHook'
    assert cfg.custom_hooks[-1] == {'type': 'FiniteLossHook', 'patience': 1}
    assert all(hook.type != 'FiniteLossHook' for hook in train_with('--stop-on-nan', '0').custom_hooks)


def test_the_hooks_of_an_earlier_training_are_replaced(
    train_with: Callable[..., Config], tmp_path: Path
) -> None:
    """Its config is written into the work folder, with the hooks that its options have added."""
    cfg = train_with('--stop-on-nan', '1')
    cfg.custom_hooks = [{'type': 'Mine'}, *cfg.custom_hooks, {'type': 'AgreementHook'}]
    cfg.dump(tmp_path / 'again.py')
    for patience, expected in (('3', [{'type': 'FiniteLossHook', 'patience': 3}]), ('0', [])):
        words = [str(tmp_path / 'again.py'), '--stop-on-nan', patience]
        hooks = training_config(training_parser().parse_args(words)).custom_hooks
        assert hooks[0].type == 'Mine'
        assert [hook for hook in hooks if hook.type in ('FiniteLossHook', 'AgreementHook')] == expected


def test_loops_and_hooks_of_other_kinds_stay() -> None:
    cfg = Config({'train_cfg': {'by_epoch': False, 'max_iters': 2}})
    make_resumable(cfg)
    assert cfg.train_cfg == {'type': 'ResumableIterLoop', 'max_iters': 2}
    assert cfg.default_hooks.checkpoint == {'type': 'AtomicCheckpointHook', 'interval': 1}
    cfg = Config({'train_cfg': {'type': 'Mine'}, 'default_hooks': {'checkpoint': {'type': 'Other'}}})
    make_resumable(cfg)
    assert (cfg.train_cfg.type, cfg.default_hooks.checkpoint.type) == ('Mine', 'Other')
    cfg = Config({'train_cfg': {'type': 'Mine'}, 'default_hooks': {'checkpoint': None}})
    make_resumable(cfg)
    assert cfg.default_hooks.checkpoint is None


def test_mixed_precision(train_with: Callable[..., Config], monkeypatch: pytest.MonkeyPatch) -> None:
    plain = train_with().optim_wrapper
    amp = [f'optim_wrapper.{key}' for key in ('type=AmpOptimWrapper', 'loss_scale=dynamic', 'dtype=float16')]
    for words in ([], ['--cfg-options', *amp, 'optim_wrapper.use_fsdp=False']):
        assert train_with('--amp', *words).optim_wrapper == {**plain, 'type': 'BFloat16OptimWrapper'}
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    wrapper = train_with('--amp', 'float16').optim_wrapper
    assert (wrapper.type, wrapper.dtype, wrapper.loss_scale) == ('AmpOptimWrapper', 'float16', 'dynamic')
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    with pytest.raises(UserError, match='use --amp bfloat16'):
        train_with('--amp', 'float16')


def test_pretrained_backbone(train_with: Callable[..., Config], tmp_path: Path) -> None:
    weights = tmp_path / 'weights.pth'
    with pytest.raises(UserError, match=r'--pretrained .*weights\.pth: no such file'):
        train_with('--pretrained', str(weights))
    weights.touch()
    cfg = train_with('--pretrained', str(weights))
    assert cfg.model.backbone.init_cfg == {'type': 'Pretrained', 'checkpoint': str(weights)}
    older = train_with(
        '--pretrained', str(weights), '--cfg-options', 'model.pretrained=open-mmlab://resnet50'
    )
    assert (older.model.pretrained, older.model.backbone.init_cfg) == (None, cfg.model.backbone.init_cfg)
    with pytest.raises(UserError, match='is an address, not a file; download it first'):
        train_with('--pretrained', 'torchvision://resnet50')


def test_complete_model(train_with: Callable[..., Config], tmp_path: Path) -> None:
    path = tmp_path / 'a.pth'
    torch.save({'state_dict': {'a': torch.ones(1)}}, path)
    older = 'model.backbone.pretrained=gone.pth'
    for words in (
        ['--load', str(path), '--cfg-options', older],
        ['--cfg-options', f'load_from={path}', older],
    ):
        cfg = train_with(*words)
        assert not cfg.get('resume')
        assert open_weights(cfg).path == path
        assert not cfg.model.backbone.pretrained
    with pytest.raises(UserError, match='https://a/b: is an address'):
        open_weights(train_with('--load', 'https://a/b'))
    with pytest.raises(SystemExit):
        train_with('--load', str(path), '--pretrained', str(path))


def test_weights_of_a_backbone_and_of_a_complete_model(train_with: Callable[..., Config]) -> None:
    """Only the model's would be loaded."""
    words = ['--pretrained', 'a.pth', '--resume', '--cfg-options', 'load_from=b.pth']
    with pytest.raises(UserError, match=r'--pretrained a\.pth: the config starts .* load_from=b\.pth'):
        train_with(*words)
    assert train_with(*words, 'resume=True').resume
    del words[2]
    with pytest.raises(
        UserError, match=r'--pretrained a\.pth: the config resumes from load_from=b\.pth; leave'
    ):
        train_with(*words, 'resume=True')


@pytest.mark.parametrize(
    ('key', 'value'), [('runner_type', 'FlexibleRunner'), ('strategy', {'type': 'FSDPStrategy'})]
)
def test_runners_that_a_training_does_not_have(
    flat_config: Path, coco_root: Path, tmp_path: Path, key: str, value: str | dict
) -> None:
    cfg = load_config(flat_config)
    cfg[key] = value
    cfg.dump(tmp_path / 'sharded.py')
    words = [str(tmp_path / 'sharded.py'), '--data-root', str(coco_root)]
    with pytest.raises(UserError, match=rf'{key}=.*: "crossformer train" has only MMEngine\'s Runner; FSDP'):
        training_config(training_parser().parse_args(words))
    assert evaluation_config(evaluation_parser().parse_args([*words, 'weights.pth']))[key] == value


def test_resume(train_with: Callable[..., Config], tmp_path: Path) -> None:
    cfg = train_with('--resume')
    assert (cfg.resume, cfg.load_from) == (True, None)
    with pytest.raises(UserError, match=r'--resume .*last\.pth: no such file'):
        train_with('--resume', str(tmp_path / 'last.pth'))
    (tmp_path / 'last.pth').touch()
    cfg = train_with('--resume', str(tmp_path / 'last.pth'))
    assert (cfg.resume, cfg.load_from) == (True, None)
    assert train_with('--resume', '--pretrained', 'gone.pth').model.backbone.init_cfg.checkpoint == 'gone.pth'


@pytest.mark.parametrize('start', [None, 'b.pth'])
def test_the_config_in_the_work_folder_starts_a_new_training(tmp_path: Path, start: str | None) -> None:
    cfg = Config({'resume': True, 'load_from': 'a.pth'}, cfg_text=' ', filename='configs/run.py')
    _write_config(SimpleNamespace(cfg=cfg, work_dir=tmp_path), start)
    written = Config.fromfile(tmp_path / 'run.py')
    assert (written.resume, written.load_from) == (False, start)
    assert (cfg.resume, cfg.load_from) == (True, 'a.pth')


def test_no_workers_are_not_kept_alive(train_with: Callable[..., Config]) -> None:
    cfg = train_with('--cfg-options', 'train_dataloader.num_workers=0')
    assert not cfg.train_dataloader.persistent_workers
    assert cfg.val_dataloader.persistent_workers


def test_processes_without_gpus(train_with: Callable[..., Config], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    monkeypatch.setenv('RANK', '0')
    monkeypatch.setenv('SLURM_PROCID', '0')
    cfg = train_with('--launcher', 'pytorch')
    assert cfg.launcher == 'pytorch'
    assert cfg.model_wrapper_cfg.device_ids is None
    with pytest.raises(UserError, match='--launcher slurm needs GPUs'):
        train_with('--launcher', 'slurm')


def test_processes_that_exchange_no_results_in_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path('.dist_test').touch()
    with pytest.raises(UserError, match=r'exchange results in \.dist_test, or where .* is a file'):
        _check_exchange(Config({'test_evaluator': [{'type': 'CocoReport'}]}))
    for settings in ({'collect_dir': '/scratch'}, {'collect_device': 'gpu'}):
        _check_exchange(Config({'val_evaluator': {'type': 'CocoReport', **settings}}))
    _check_exchange(Config({}))


@pytest.mark.parametrize(
    ('launcher', 'start'), [('pytorch', 'torchrun'), ('slurm', 'srun'), ('mpi', 'mpirun')]
)
def test_a_launcher_that_did_not_launch(
    train_with: Callable[..., Config], monkeypatch: pytest.MonkeyPatch, launcher: str, start: str
) -> None:
    for variable in ('RANK', 'SLURM_PROCID', 'OMPI_COMM_WORLD_LOCAL_RANK'):
        monkeypatch.delenv(variable, raising=False)
    with pytest.raises(UserError, match=f'--launcher {launcher}: .* start it with .*{start}'):
        train_with('--launcher', launcher)


def test_notices_are_dropped_and_the_rest_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    with quiet_imports():
        print('Could not import OneDL. Skipping OneDL datasets.')
        print('a config that says something')
    assert capsys.readouterr().out == 'a config that says something\n'


def test_config_that_is_not_there() -> None:
    with pytest.raises(UserError, match=r'nothing\.py: no such config file'):
        load_config('nothing.py')


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('model = dict(', 'SyntaxError'),
        ("_base_ = './gone.py'\n", 'FileNotFoundError'),
        ('width = 1 / 0\n', 'ZeroDivisionError: division by zero'),
        ("custom_imports = dict(imports=['no_such_module'])\n", 'ImportError: Failed to import'),
    ],
)
def test_config_that_does_not_work(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / 'mine.py'
    path.write_text(text)
    with pytest.raises(UserError, match=f'mine.py: cannot load this config: {message}') as raised:
        load_config(path)
    assert '\n' not in str(raised.value)


def test_settings_are_merged(flat_config: Path) -> None:
    cfg = load_config(
        flat_config, ['train_cfg.max_epochs=3', 'model.neck.in_channels=[1,2,3,4]', 'randomness.seed=5']
    )
    assert cfg.train_cfg.max_epochs == 3
    assert cfg.model.neck.in_channels == [1, 2, 3, 4]
    assert cfg.randomness == {'seed': 5}


def test_a_dictionary_takes_the_place_of_a_name(flat_config: Path) -> None:
    arch = 'model.backbone.arch'
    settings = [f'{arch}._delete_=True', f'{arch}.embed_dims=32', f'{arch}.depths=(1,1,4,2)']
    cfg = load_config(flat_config, settings)
    assert cfg.model.backbone.arch == {'embed_dims': 32, 'depths': (1, 1, 4, 2)}


@pytest.mark.parametrize(
    ('setting', 'message'),
    [
        ('max_epochs', 'not KEY=VALUE'),
        ('a=[1,(2]', 'not KEY=VALUE with balanced brackets'),
        ("model.backbone.arch={'depths':(1,1,4,1)}", 'set the values of a dict one by one'),
        ('optim_wraper.optimizer.lr=1', 'unknown setting optim_wraper; did you mean optim_wrapper'),
        ('data_root=x', 'data_root is a variable .* no effect'),
        ('zzz=1', 'unknown setting zzz; .*does not have it'),
        ('model.neck.type.x=1', 'does not fit the config: TypeError'),
        ('param_scheduler.9.end=1', 'does not fit the config: KeyError'),
    ],
)
def test_settings_that_make_no_sense(flat_config: Path, setting: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as raised:
        load_config(flat_config, [setting])
    assert '\n' not in str(raised.value)
    assert setting in str(raised.value)


@pytest.mark.parametrize(
    'name', ['run.py', 'curves.png', 'report.html', 'epoch_1.pth', 'best_score_iter_10.pth']
)
def test_a_new_training_keeps_files_of_the_user(tmp_path: Path, name: str) -> None:
    (tmp_path / 'configs').mkdir()
    for other in ('configs/run.py', 'weights.pth', 'best_of_all.pth', 'notes.txt'):
        (tmp_path / other).touch()
    cfg = Config({'work_dir': str(tmp_path), 'default_hooks': {}}, filename=tmp_path / 'configs/run.py')
    write_output(tmp_path / 'iter_9.pth', Path.touch)
    check_work_folder(cfg, None, None)
    (tmp_path / name).write_text('mine')
    with pytest.raises(UserError, match=f'--work-dir: {tmp_path}/{name} exists, and was not written by'):
        check_work_folder(cfg, None, None)
    with pytest.raises(UserError):
        check_work_folder(cfg, Checkpoint({'meta': {}}, tmp_path / 'other/iter_9.pth'), None)
    check_work_folder(cfg, Checkpoint({'meta': {}}, tmp_path / 'iter_9.pth'), None)


def test_testing_reads_the_validation_data_alone(flat_config: Path, coco_root: Path, tmp_path: Path) -> None:
    words = [
        *(str(flat_config), 'weights.pth', '--data-root', str(coco_root), '--train-ann', 'none.json'),
        *('--out', 'results.json', '--plots', str(tmp_path)),
        *('--cfg-options', 'load_from=x.pth', 'resume=True', 'model.backbone.init_cfg.checkpoint=y.pth'),
    ]
    cfg = evaluation_config(evaluation_parser().parse_args(words))
    assert (cfg.load_from, cfg.resume, cfg.model.backbone.init_cfg) == (None, False, None)
    assert cfg.test_evaluator.outfile_prefix == 'results'
    assert cfg.test_evaluator.plots_dir == str(tmp_path)


@pytest.mark.parametrize('option', ['--out', '--plots'])
def test_results_of_a_metric_that_writes_none(flat_config: Path, tmp_path: Path, option: str) -> None:
    cfg = load_config(flat_config)
    cfg.test_evaluator = {'type': 'VOCMetric', 'metric': 'mAP'}
    cfg.dump(tmp_path / 'voc.py')
    words = [str(tmp_path / 'voc.py'), 'weights.pth', option, str(tmp_path / 'results')]
    with pytest.raises(UserError, match='--out and --plots need an evaluator with an ann_file'):
        evaluation_config(evaluation_parser().parse_args(words))
