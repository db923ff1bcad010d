"""Checkpoints of a training: atomic writes, late removal of old ones, and finding the latest intact one."""

import os
import re
import resource
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner
from small_runs import assert_same_state, small_run

from crossformer_mm.checkpoint.resume import latest_intact
from crossformer_mm.engine.hooks.checkpoint import AtomicCheckpointHook, AtomicFileBackend
from crossformer_mm.utils.errors import UserError


@contextmanager
def files_up_to(size: int) -> Iterator[None]:
    """Limit the size of files, so that writes fail as on a full disk."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


class Before(Hook):
    """Does something before an iteration."""

    def __init__(self, iteration: int, action: Any) -> None:
        self.iteration = iteration
        self.action = action

    def before_train_iter(self, runner: Runner, *args: Any, **kwargs: Any) -> None:
        if runner.iter == self.iteration:
            self.action(runner)


def names(folder: Path) -> list[str]:
    """The files of checkpoints, including partial ones."""
    return sorted(path.name for path in folder.iterdir() if re.search(r'\.pth|last_check', path.name))


def found(*folders: Path) -> tuple[Path | None, list[str]]:
    """The file that a run in these folders would resume from, and the faults of others."""
    checkpoint, complaints = latest_intact(folders)
    return checkpoint and checkpoint.path, complaints


def test_a_killed_write_leaves_the_file_that_was_there(tmp_path: Path) -> None:
    path = tmp_path / 'a.pth'
    backend = AtomicFileBackend()
    backend.put(b'old', path)
    content = b'new' * 100_000_000
    child = os.fork()
    if not child:
        backend.put(content, path)
        os._exit(0)
    while not any(part.stat().st_size for part in tmp_path.glob('.a.pth.*.part')):
        time.sleep(0.0001)
    os.kill(child, signal.SIGKILL)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
    assert path.read_bytes() == b'old'
    assert len(names(tmp_path)) == 2


def test_half_written_files_of_a_killed_run_are_cleared(tmp_path: Path) -> None:
    (tmp_path / '.iter_7.pth.0123abcd.part').write_bytes(b'half')
    small_run(tmp_path, checkpoint={'interval': 6}).train()
    assert names(tmp_path) == ['iter_12.pth', 'iter_6.pth', 'last_checkpoint']


def test_a_full_disk_stops_the_run_and_keeps_its_only_checkpoint(tmp_path: Path) -> None:
    whole, full = tmp_path / 'whole', tmp_path / 'full'
    small_run(whole).train()
    size = (whole / 'iter_2.pth').stat().st_size
    limit = files_up_to(size // 2)
    stop = Before(2, lambda runner: limit.__enter__())
    with pytest.raises(UserError) as raised:
        small_run(full, checkpoint={'max_keep_ckpts': 1}, custom_hooks=[stop]).train()
    limit.__exit__(None, None, None)
    message = str(raised.value)
    assert 'iter_3.pth: cannot be written (File too large); free some space; earlier checkpoints' in message
    assert '\n' not in message
    assert names(full) == ['iter_2.pth', 'last_checkpoint']
    assert (full / 'last_checkpoint').read_text() == str(full / 'iter_2.pth')
    assert found(full) == (full / 'iter_2.pth', [])
    small_run(full, checkpoint={'max_keep_ckpts': 1}, resume=True).train()
    assert names(full) == ['iter_12.pth', 'last_checkpoint']
    assert_same_state(full, whole)


def test_old_checkpoints_go_when_the_new_one_is_there(tmp_path: Path) -> None:
    small_run(tmp_path, checkpoint={'max_keep_ckpts': 3}).train()
    assert names(tmp_path) == ['iter_10.pth', 'iter_11.pth', 'iter_12.pth', 'last_checkpoint']


def score(value: float) -> Any:
    """An action that reports a score of a validation."""

    def call(runner: Runner) -> None:
        hook = next(hook for hook in runner.hooks if isinstance(hook, AtomicCheckpointHook))
        hook.after_val_epoch(runner, {'score': value})

    return call


@pytest.mark.parametrize(
    'named',
    ['of another run', 'of the user', 'folder', 'of the same run', 'of the same run, moved', 'lost'],
)
def test_a_resumed_run_removes_only_its_own_best_checkpoint(tmp_path: Path, named: str) -> None:
    first, second = tmp_path / 'first', tmp_path / 'second'
    settings = {'save_best': 'score', 'rule': 'greater', 'interval': 6}
    small_run(first, checkpoint=settings, custom_hooks=[Before(2, score(0.1))]).train()
    best = first / 'best_score_iter_2.pth'
    checkpoint = torch.load(first / 'iter_6.pth', weights_only=False)
    assert checkpoint['message_hub']['runtime_info']['best_ckpt'] == str(best)
    if named in ('of the user', 'folder'):
        best = second / 'mine.txt'
        second.mkdir()
        best.mkdir() if named == 'folder' else best.write_text('mine')
        checkpoint['message_hub']['runtime_info']['best_ckpt'] = str(best)
        torch.save(checkpoint, first / 'iter_6.pth')
    if named in ('of the same run, moved', 'lost'):
        first = first.rename(tmp_path / 'moved')
        best = first / best.name
    if named == 'lost':
        second.mkdir()
        best = best.rename(second / best.name)  # as if another run had written it
    work_dir = first if named.startswith('of the same run') else second
    better = Before(8, score(0.2))
    resumed = {'resume': True, 'load_from': str(first / 'iter_6.pth')}
    small_run(work_dir, checkpoint=settings, custom_hooks=[better], **resumed).train()
    assert (work_dir / 'best_score_iter_8.pth').exists()
    assert best.exists() == (not named.startswith('of the same run'))


def test_the_best_checkpoint_goes_when_a_better_one_is_there(tmp_path: Path) -> None:
    def best() -> list[str]:
        return [path.name for path in tmp_path.glob('best*')]

    checkpoint = {'max_keep_ckpts': 1, 'save_best': 'score', 'rule': 'greater'}
    seen: list[list[str]] = []
    watch = [Before(i, lambda runner: seen.append(best())) for i in (3, 4, 5)]
    calls = [Before(1, score(-1)), Before(1, score(float('nan')))]  # no objects, as COCO's evaluation says it
    watch += [Before(2, lambda runner: seen.append(best()))]
    calls += [Before(2, score(0.1)), Before(3, score(0.2)), Before(3, score(0.3)), Before(4, score(0.2))]
    limit = files_up_to(1000)
    calls += [Before(6, lambda runner: limit.__enter__()), Before(6, score(0.4))]
    with pytest.raises(UserError, match=r'best_score_iter_6\.pth: cannot be written'):
        small_run(tmp_path, checkpoint=checkpoint, custom_hooks=[*watch, *calls]).train()
    limit.__exit__(None, None, None)
    assert seen == [[], ['best_score_iter_2.pth'], ['best_score_iter_3.pth'], ['best_score_iter_3.pth']]
    assert best() == ['best_score_iter_3.pth']
    assert names(tmp_path) == ['best_score_iter_3.pth', 'iter_6.pth', 'last_checkpoint']


def test_lost_weights_are_not_saved(tmp_path: Path) -> None:
    spoil = Before(3, lambda runner: runner.model.layers[2].bias.data.fill_(float('inf')))
    with pytest.raises(UserError, match=r'iteration 4: weights .* NaN or infinite: .*layers\.2\.bias'):
        small_run(tmp_path, checkpoint={'max_keep_ckpts': 1}, custom_hooks=[spoil]).train()
    assert names(tmp_path) == ['iter_3.pth', 'last_checkpoint']


@pytest.fixture
def trained(tmp_path: Path) -> Path:
    """A work folder with checkpoints of iterations 4, 8 and 12, and one with only weights."""
    small_run(tmp_path, checkpoint={'interval': 4}).train()
    torch.save({'state_dict': {}, 'meta': {'iter': 99}}, tmp_path / 'best_score_iter_99.pth')
    return tmp_path


def test_the_latest_checkpoint_counts_not_the_last_name(trained: Path) -> None:
    assert found(trained, trained / 'no such folder') == (trained / 'iter_12.pth', [])


def flip_a_bit(path: Path) -> None:
    """Flip a bit in a tensor, which torch does not detect."""
    content = bytearray(path.read_bytes())
    weight = torch.load(path, weights_only=False)['state_dict']['layers.0.weight'].numpy().tobytes()
    content[content.index(weight) + 5] ^= 1
    path.write_bytes(content)
    torch.load(path, weights_only=False)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def empty(path: Path) -> None:
    path.write_bytes(b'')


@pytest.mark.parametrize(
    ('damage', 'reason'),
    [(truncate, 'is cut off or damaged'), (flip_a_bit, 'is damaged'), (empty, 'is empty')],
)
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_taken(
    trained: Path, damage: Any, reason: str
) -> None:
    damage(trained / 'iter_12.pth')
    path, complaints = found(trained)
    assert path == trained / 'iter_8.pth'
    assert len(complaints) == 1
    assert complaints[0].startswith(f'{trained}/iter_12.pth: {reason}')


def test_no_whole_checkpoint_is_an_error_and_no_new_start(trained: Path) -> None:
    for path in trained.glob('iter_*.pth'):
        truncate(path)
    with pytest.raises(UserError) as raised:
        latest_intact([trained])
    message = str(raised.value)
    assert message.startswith('the last run has no intact checkpoint: ')
    assert all(f'iter_{number}.pth: is cut off' in message for number in (4, 8, 12))
    assert '\n' not in message


def test_no_checkpoint_at_all(tmp_path: Path) -> None:
    assert latest_intact([tmp_path]) == (None, [])
