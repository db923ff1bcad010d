"""Which checkpoint a training resumes from, and whether its settings and data still fit."""

import copy
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.config import Config
from mmengine.model import PretrainedInit
from small_runs import IMAGES, Noisy, StopHook, Stopped, small_run

from crossformer_mm.checkpoint.meta import notes_of
from crossformer_mm.checkpoint.reader import Checkpoint, open_checkpoint
from crossformer_mm.checkpoint.resume import latest_intact, runs_of
from crossformer_mm.engine.changes import (
    check_optimizer,
    check_trained_classes,
    compare_facts,
    compare_settings,
    state_warnings,
)
from crossformer_mm.engine.train import find_resume, finished, forget_pretrained
from crossformer_mm.utils.errors import UserError

OLD, NEW = '20260101_080000', '20260101_010000'  # the new run was in another time zone


def save(path: Path, iteration: int, runs: Sequence[list], time: str = OLD, **meta: Any) -> None:
    """Write a checkpoint with a training state of epochs of ten iterations."""
    torch.save(
        {
            'state_dict': {'a': torch.ones(2)},
            'optimizer': {'state': {}, 'param_groups': []},
            'message_hub': {'runtime_info': {'runs': runs} if runs else {}},
            'meta': {'iter': iteration, 'epoch': iteration // 10, 'time': time, 'seed': 7, **meta},
        },
        path,
    )


def found(*folders: Path) -> str | None:
    """The name of the file that a run in these folders resumes from."""
    checkpoint, _ = latest_intact(folders)
    return checkpoint and checkpoint.path.name


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    """A work folder in which an old run had 5 epochs, and a newer one has 2, resumed after the first."""
    for epoch in (3, 4, 5):
        save(tmp_path / f'epoch_{epoch}.pth', epoch * 10, [['old', 0]])
    save(tmp_path / 'epoch_1.pth', 10, [['new', 0]], time='20260102_080000')
    save(tmp_path / 'epoch_2.pth', 20, [['new', 0], ['resumed', 10]], time='20260102_090000')
    torch.save({'state_dict': {}, 'meta': {'iter': 20, 'epoch': 2}}, tmp_path / 'best_mIoU_epoch_2.pth')
    (tmp_path / 'last_checkpoint').write_text(f'{tmp_path}/epoch_2.pth')
    return tmp_path


def test_the_run_that_wrote_last_is_resumed_and_the_others_are_named(shared: Path) -> None:
    checkpoint, complaints = latest_intact([shared])
    assert checkpoint.path == shared / 'epoch_2.pth'
    (line,) = complaints
    names = ', '.join(f'{shared}/epoch_{epoch}.pth' for epoch in (3, 4, 5))
    assert line.startswith(f'{names}: of another run')


@pytest.mark.parametrize('text', ['/moved/elsewhere/epoch_2.pth', 'work_dirs/x/epoch_2.pth\n', 'epoch_2.pth'])
def test_the_last_checkpoint_may_have_been_written_elsewhere(shared: Path, text: str) -> None:
    (shared / 'last_checkpoint').write_text(text)
    assert found(shared) == 'epoch_2.pth'


@pytest.mark.parametrize(
    'content', [None, b'', b'\n', b'\xff\0\xfe', b'/', b'x' * 300, b'best_mIoU_epoch_2.pth']
)
def test_without_a_last_checkpoint_the_time_in_the_files_decides(shared: Path, content: bytes | None) -> None:
    (shared / 'last_checkpoint').unlink()
    if content is not None:
        (shared / 'last_checkpoint').write_bytes(content)
    checkpoint, complaints = latest_intact([shared, shared])
    assert checkpoint.path == shared / 'epoch_2.pth'
    assert len(complaints) == 1 and 'of another run' in complaints[0]


@pytest.mark.parametrize('content', [None, b'', b'PK\3\4 cut off'])
def test_a_lost_checkpoint_falls_back_within_its_run(shared: Path, content: bytes | None) -> None:
    (shared / 'epoch_2.pth').unlink()
    if content is not None:
        (shared / 'epoch_2.pth').write_bytes(content)
    assert found(shared) == 'epoch_1.pth'
    (shared / 'epoch_1.pth').write_bytes(b'')
    with pytest.raises(
        UserError, match=r'the last run has no intact checkpoint: .*epoch_5\.pth: of another run'
    ):
        latest_intact([shared])


def test_an_earlier_last_checkpoint_is_followed(shared: Path) -> None:
    (shared / 'last_checkpoint').write_text('epoch_1.pth')
    assert found(shared) == 'epoch_1.pth'


def test_time_zones_do_not_matter_within_a_training(tmp_path: Path) -> None:
    save(tmp_path / 'iter_10.pth', 10, [['a', 0]], OLD)
    save(tmp_path / 'iter_20.pth', 20, [['a', 0], ['b', 10]], NEW)
    assert found(tmp_path) == 'iter_20.pth'
    shutil.copy(tmp_path / 'iter_20.pth', tmp_path / 'copy.pth')
    assert found(tmp_path) in ('iter_20.pth', 'copy.pth')


def test_files_after_a_resume_from_an_earlier_one_are_not_of_this_run(tmp_path: Path) -> None:
    for iteration in (10, 20, 30):
        save(tmp_path / f'iter_{iteration}.pth', iteration, [['a', 0]])
    save(tmp_path / 'iter_25.pth', 25, [['a', 0], ['b', 10]])
    (tmp_path / 'last_checkpoint').write_text('iter_25.pth')
    checkpoint, (line,) = latest_intact([tmp_path])
    assert checkpoint.path.name == 'iter_25.pth'
    assert line.startswith(f'{tmp_path}/iter_20.pth, {tmp_path}/iter_30.pth: of another run')
    (tmp_path / 'iter_25.pth').write_bytes(b'')
    (tmp_path / 'last_checkpoint').unlink()
    save(tmp_path / 'iter_24.pth', 24, [['a', 0], ['b', 10]], time='20270101_000000')
    assert found(tmp_path) == 'iter_24.pth'
    (tmp_path / 'iter_24.pth').write_bytes((tmp_path / 'iter_24.pth').read_bytes()[:-9])
    (tmp_path / 'last_checkpoint').write_text('iter_24.pth')
    assert found(tmp_path) == 'iter_20.pth'  # it is unknown what came before


def test_the_checkpoint_may_have_any_name_and_be_in_out_dir(tmp_path: Path) -> None:
    work, out = tmp_path / 'work', tmp_path / 'out'
    for folder in (work, out):
        folder.mkdir()
    save(work / 'iter_9.pth', 9, [['old', 0]], time='20300101_000000')
    save(out / 'step-5.ckpt', 5, [['new', 0]])
    (work / 'last_checkpoint').write_text(str(out / 'step-5.ckpt'))
    assert found(work, out) == 'step-5.ckpt'


def test_files_of_other_programs(tmp_path: Path) -> None:
    """Without this package's notes, and with odd ones."""
    save(tmp_path / 'iter_5.pth', 5, [], experiment_name='one')
    save(tmp_path / 'iter_6.pth', 6, [], experiment_name='two', time=NEW)
    save(tmp_path / 'iter_7.pth', 7, [['x']], experiment_name='one')
    torch.save({'optimizer': {}, 'message_hub': {}, 'meta': {'iter': 'x'}}, tmp_path / 'a.pth')
    torch.save({'optimizer': {}, 'message_hub': {}}, tmp_path / 'b.pth')
    save(tmp_path / 'iter_8.pth', -8, [], time='20300101_000000')
    (tmp_path / 'folder.pth').mkdir()
    checkpoint, complaints = latest_intact([tmp_path])
    assert checkpoint.path.name == 'iter_7.pth'
    assert len(complaints) == 1 and complaints[0].startswith(f'{tmp_path}/iter_6.pth: of another run')


def test_a_training_notes_its_runs(tmp_path: Path) -> None:
    """In the folder of an old run of 12 iterations, a new one stops, resumes, and stops again."""
    small_run(tmp_path, checkpoint={'interval': 4}).train()
    with pytest.raises(Stopped):
        small_run(tmp_path, 'Iter', checkpoint={'interval': 3}, custom_hooks=[StopHook(2)]).train()
    with pytest.raises(
        UserError, match=r'the last run has no intact checkpoint: .*iter_8\.pth: of another run'
    ):
        latest_intact([tmp_path])
    new = small_run(tmp_path, 'Iter', checkpoint={'interval': 3}, custom_hooks=[StopHook(7)])
    with pytest.raises(Stopped):
        new.train()
    assert found(tmp_path) == 'iter_6.pth'
    settings = {'checkpoint': {'interval': 3}, 'custom_hooks': [StopHook(10)]}
    resumed = small_run(tmp_path, 'Iter', resume=True, load_from=str(tmp_path / 'iter_6.pth'), **settings)
    with pytest.raises(Stopped):
        resumed.train()
    checkpoint, complaints = latest_intact([tmp_path])
    assert checkpoint.path == tmp_path / 'iter_9.pth'
    assert runs_of(checkpoint) == [[new.experiment_name, 0], [resumed.experiment_name, 6]]
    (line,) = complaints
    assert all(f'iter_{number}.pth' in line for number in (4, 8, 12))
    settings['custom_hooks'] = [StopHook(5)]
    again = small_run(tmp_path, 'Iter', resume=True, load_from=str(tmp_path / 'iter_3.pth'), **settings)
    with pytest.raises(Stopped):
        again.train()
    assert found(tmp_path) == 'iter_3.pth'
    shutil.copytree(tmp_path, tmp_path / 'other')
    elsewhere = tmp_path / 'other'
    again = small_run(elsewhere, 'Iter', resume=True, load_from=str(tmp_path / 'iter_3.pth'), **settings)
    with pytest.raises(Stopped):
        again.train()
    with pytest.raises(UserError, match='the last run has no intact checkpoint'):
        latest_intact([elsewhere])


def test_weights_alone_start_a_new_training(tmp_path: Path) -> None:
    small_run(tmp_path / 'a', checkpoint={'interval': 6}).train()
    new = small_run(tmp_path / 'b', checkpoint={'interval': 12}, load_from=str(tmp_path / 'a' / 'iter_6.pth'))
    new.train()
    assert runs_of(open_checkpoint(tmp_path / 'b' / 'iter_12.pth')) == [[new.experiment_name, 0]]


def config(work_dir: Path, **settings: Any) -> Config:
    """What resuming reads of a config."""
    text = {'work_dir': str(work_dir), 'train_cfg': {'max_epochs': 9}, 'default_hooks': {}, **settings}
    return Config(text, cfg_text=' ', filename='config.py')  # a file that is not read


@pytest.mark.parametrize('source', ['{}', '{}/', '{}/last_checkpoint'])
def test_a_folder_is_resumed_into_the_work_folder(shared: Path, source: str) -> None:
    cfg = config(shared / 'other', load_from='start.pth')
    checkpoint, warnings = find_resume(cfg, source.format(shared))
    assert checkpoint.path == shared / 'epoch_2.pth'
    assert (cfg.resume, cfg.load_from, cfg.randomness.seed) == (True, str(shared / 'epoch_2.pth'), 7)
    assert f'new checkpoints and the log go to {shared}/other' in warnings[-1]
    assert 'epoch_5.pth' in warnings[0]


def test_a_file_is_resumed_as_it_is(shared: Path) -> None:
    cfg = config(shared, randomness={'seed': 8})
    checkpoint, warnings = find_resume(cfg, str(shared / 'epoch_4.pth'))
    assert checkpoint.path == shared / 'epoch_4.pth'
    assert warnings == [f'randomness.seed=8 is ignored: {shared}/epoch_4.pth has seed 7']


def test_the_configs_own_resume(shared: Path) -> None:
    for load_from, name in ((str(shared / 'epoch_4.pth'), 'epoch_4.pth'), (None, 'epoch_2.pth')):
        checkpoint, _ = find_resume(config(shared, resume=True, load_from=load_from))
        assert checkpoint.path.name == name
    assert find_resume(config(shared, load_from=str(shared / 'epoch_4.pth'))) == (None, [])


def test_without_a_checkpoint_the_weights_of_the_config_are_used(tmp_path: Path) -> None:
    cfg = config(tmp_path, load_from='start.pth')
    checkpoint, (line,) = find_resume(cfg, 'auto')
    assert checkpoint is None and (cfg.resume, cfg.load_from) == (False, 'start.pth')
    assert line == f'{tmp_path} contains no checkpoint to resume from: training from start.pth'
    with pytest.raises(UserError, match='contains no checkpoint to resume from'):
        find_resume(cfg, str(tmp_path))
    with pytest.raises(UserError, match=r'/x.pth: cannot be read'):
        find_resume(config(tmp_path, resume=True, load_from=f'{tmp_path}/x.pth'))


def test_a_finished_training_says_so(shared: Path) -> None:
    checkpoint = open_checkpoint(shared / 'epoch_2.pth')
    line = finished(config(shared, train_cfg={'max_epochs': 2}), checkpoint)
    assert line.startswith(
        f'{checkpoint.path}: this training is already complete (epoch 2 of 2); evaluate it'
        f' with crossformer test config.py {checkpoint.path}, or raise train_cfg.max_epochs'
    )
    assert 'complete (iter 20 of 15)' in finished(config(shared, train_cfg={'max_iters': 15}), checkpoint)
    assert finished(config(shared, train_cfg={'max_epochs': 3}), checkpoint) is None


DATA = {'type': 'Repeat', 'dataset': {'type': 'Any', 'metainfo': {'classes': ('cat', 'dog', 'cow')}}}


@pytest.mark.parametrize(
    ('trained', 'reason'),
    [
        (['cat', 'dog', 'cow'], None),
        (None, None),
        (
            ['dog', 'cat', 'cow'],
            r'the same classes in another order than the data has: dog, cat, cow, not cat, dog, cow',
        ),
        (['cat', 'dog', 'bull'], r'other classes \(with bull, without cow\) than'),
        (['cat', 'dog'], r'\(with none, without cow\)'),
    ],
)
def test_other_classes_are_refused(trained: list[str] | None, reason: str | None) -> None:
    cfg = config(Path('x'), train_dataloader={'dataset': DATA})
    checkpoint = Checkpoint({'meta': {'dataset_meta': {'classes': trained}}}, Path('a.pth'))
    if reason is None:
        check_trained_classes(cfg, checkpoint)
    else:
        with pytest.raises(UserError, match=f'--resume a.pth: .*{reason}'):
            check_trained_classes(cfg, checkpoint)


SETTINGS = {
    'model': {'type': 'M', 'depths': (1, 2), 'init_cfg': {'type': 'Pretrained', 'checkpoint': 'a.pth'}},
    'optim_wrapper': {'type': 'OptimWrapper', 'optimizer': {'type': 'AdamW', 'lr': 1e-4}, 'clip_grad': None},
    'param_scheduler': [{'type': 'LinearLR', 'end': 500}, {'type': 'MultiStepLR', 'milestones': [8, 11]}],
    'train_dataloader': {
        'batch_size': 2,
        'num_workers': 2,
        'dataset': {'ann_file': 'a/train.json', 'pipeline': [{'type': 'Flip', 'prob': 0.5}]},
    },
    'randomness': {'diff_rank_seed': False},
}


def changed(**changes: Any) -> list[str]:
    """The lines about a config with some settings changed, given by keys with ``__`` for dots."""
    old, new = Config(copy.deepcopy(SETTINGS)), Config(copy.deepcopy(SETTINGS))
    new.merge_from_dict({key.replace('__', '.'): value for key, value in changes.items()})
    return compare_settings(new, Checkpoint({'meta': {'cfg': old.pretty_text}}, Path('a.pth')))


def test_a_data_preprocessor_beside_the_model_is_in_it() -> None:
    """Checkpoints of earlier versions have it beside the model alone."""
    part = {'data_preprocessor': {'type': 'P', 'mean': [1, 2]}}
    old = Config({**SETTINGS, **part})
    new = Config({**SETTINGS, **part, 'model': {**SETTINGS['model'], **part}})
    assert compare_settings(new, Checkpoint({'meta': {'cfg': old.pretty_text}}, Path('a.pth'))) == []


def test_the_same_settings() -> None:
    assert changed() == []
    assert changed(model__init_cfg__checkpoint='moved.pth', train_dataloader__num_workers=0) == []
    assert changed(train_dataloader__dataset__ann_file='/copies/train.json') == []
    assert changed(model__with_cp=True, work_dir='elsewhere', model__depths=[1, 2]) == []


@pytest.mark.parametrize(
    ('key', 'value', 'shown'),
    [
        ('train_dataloader__batch_size', 4, 'train_dataloader.batch_size=4 (was 2)'),
        ('optim_wrapper__accumulative_counts', 2, 'optim_wrapper.accumulative_counts=2 (was not set)'),
        ('optim_wrapper__type', 'Amp', "optim_wrapper.type='Amp' (was 'OptimWrapper')"),
        ('optim_wrapper__clip_grad', 1, 'optim_wrapper.clip_grad=1 (was not set)'),
        ('randomness__diff_rank_seed', True, 'randomness.diff_rank_seed=True (was False)'),
        ('model__depths', (1, 3), 'model.depths=[1, 3] (was [1, 2])'),
        (
            'train_dataloader__dataset__ann_file',
            'a/b.json',
            "train_dataloader.dataset.ann_file='a/b.json' (was 'a/train.json')",
        ),
        (
            'train_dataloader__dataset__pipeline__0__prob',
            0,
            'train_dataloader.dataset.pipeline.0.prob=0 (was 0.5)',
        ),
    ],
)
def test_settings_that_change_the_result(key: str, value: Any, shown: str) -> None:
    (line,) = changed(**{key: value})
    assert line.startswith('the checkpoint was trained differently') and line.endswith(f': {shown}')


@pytest.mark.parametrize('key', ['optim_wrapper__optimizer__lr', 'param_scheduler__0__end'])
def test_settings_without_effect(key: str) -> None:
    (line,) = changed(**{key: 3})
    assert line.startswith('without effect') and f'{key.replace("__", ".")}=3 (was' in line
    assert '--load a.pth' in line


@pytest.mark.parametrize('key', ['optim_wrapper__optimizer__type', 'param_scheduler__1__type'])
def test_another_optimizer_or_schedule_is_refused(key: str) -> None:
    with pytest.raises(UserError, match=rf"--resume a.pth: .* {key.replace('__', '.')}='X' \(was"):
        changed(**{key: 'X'})


@pytest.mark.parametrize('rate', [0.5, None])
def test_another_layer_decay_is_refused(rate: float | None) -> None:
    old, new = (Config(copy.deepcopy(SETTINGS)) for _ in range(2))
    old.optim_wrapper.paramwise_cfg = {'decay_rate': 0.75}
    new.optim_wrapper.paramwise_cfg = {'decay_rate': rate}
    with pytest.raises(UserError, match=rf'--layer-decay={rate or "not set"} \(was 0.75\); change'):
        compare_settings(new, Checkpoint({'meta': {'cfg': old.pretty_text}}, Path('a.pth')))


def test_another_dataset_is_named_by_its_type() -> None:
    inner = SETTINGS['train_dataloader']['dataset']
    (line,) = changed(train_dataloader__dataset={'type': 'Mixed', '_delete_': True, 'dataset': inner})
    assert line.endswith(": train_dataloader.dataset.type='Mixed' (was not set)")


@pytest.mark.parametrize(
    'text', [None, '', '{' * 500, 'import os; os.abort()', 'a = ' + '-' * 9999 + '1', 'x[0] = 1']
)
def test_a_config_that_cannot_be_compared(text: str | None) -> None:
    """Nothing in it is run."""
    assert compare_settings(Config(SETTINGS), Checkpoint({'meta': {'cfg': text}}, Path('a.pth'))) == []


def test_other_groups_of_parameters_are_refused(tmp_path: Path) -> None:
    groups = [{'params': [0, 1]}, {'params': [2, 3]}]
    checkpoint = Checkpoint({'optimizer': {'param_groups': groups}}, Path('a.pth'))
    with pytest.raises(
        UserError, match='4 parameters in groups: 2, the one of the config 4 parameters in groups: 1'
    ):
        check_optimizer(small_run(tmp_path), checkpoint)
    groups[:] = [5, {}]
    with pytest.raises(UserError, match='0 parameters in groups: 1'):
        check_optimizer(small_run(tmp_path), checkpoint)
    groups[:] = [{'params': [0, 1, 2, 3]}]
    run = small_run(tmp_path)
    check_optimizer(run, checkpoint)
    run.cfg.param_scheduler = [{'type': 'LinearLR'}]
    with pytest.raises(UserError, match='no state of the schedules'):
        check_optimizer(run, checkpoint)


def test_state_that_no_checkpoint_has_is_said() -> None:
    resize = [{'type': 'BatchSyncRandomResize'}]
    mosaics = [{'type': 'CachedMosaic'}, {'type': 'Flip'}, {'type': 'CachedMosaic'}, {'type': 'CachedMixUp'}]
    for pipeline, augments, named in (
        (mosaics, resize, 'CachedMosaic, CachedMixUp, BatchSyncRandomResize'),
        (mosaics, None, 'CachedMosaic, CachedMixUp'),
        ([], resize, 'BatchSyncRandomResize'),
    ):
        data = {'dataset': {'type': 'Any', 'pipeline': pipeline}}
        model = {'data_preprocessor': {'type': 'Any', 'batch_augments': augments}}
        (line,) = state_warnings(Config({'train_dataloader': data, 'model': model}))
        assert line.endswith(f'uninterrupted training: no checkpoint has the state of {named}')
    assert state_warnings(Config(SETTINGS)) == []


def test_another_number_of_processes() -> None:
    facts = {'processes': 2, 'images': 5}
    assert compare_facts(facts, {'processes': 8, 'images': 5}) == ['processes=2 (was 8)']
    assert compare_facts(facts, {'long_distance': 'map'}) == []


class More(Noisy):
    """The same data with a thousand copies of it."""

    def __len__(self) -> int:
        return 1000 * super().__len__()


def test_another_number_of_images_is_said(tmp_path: Path) -> None:
    with pytest.raises(Stopped):
        small_run(tmp_path, 'Iter', custom_hooks=[StopHook(2)]).train()
    resumed = small_run(tmp_path, 'Iter', dataset=More(), resume=True, custom_hooks=[StopHook(2)])
    with pytest.raises(Stopped):
        resumed.train()
    log = Path(tmp_path, resumed.timestamp, f'{resumed.timestamp}.log').read_text()
    assert 'WARNING - the checkpoint was trained differently' in log
    assert 'uninterrupted training: images=10000 (was 10)' in log
    assert notes_of(open_checkpoint(tmp_path / 'iter_2.pth')) == {'processes': 1, 'images': IMAGES}


def test_a_file_with_initial_weights_is_not_needed() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(1, 1), torch.nn.Linear(1, 1), torch.nn.Linear(1, 1))
    first, other = {'type': 'Pretrained', 'checkpoint': 'gone.pth'}, {'type': 'Normal', 'layer': 'Linear'}
    model[0].init_cfg, model[1].init_cfg = first, [first, other]
    model[2].init_cfg = {'type': PretrainedInit, 'checkpoint': 'gone.pth'}
    forget_pretrained(model)
    assert model[0].init_cfg is None and model[1].init_cfg == [other]
    assert model[2].init_cfg is None
