"""mmengine's own loading, through the safe reader."""

from pathlib import Path

import pytest
import torch
from mmengine.runner import CheckpointLoader, load_checkpoint
from small_runs import Dropped, small_run

from crossformer_mm.checkpoint import install_reader, open_checkpoint
from crossformer_mm.checkpoint.reader import opened_checkpoint
from crossformer_mm.utils.errors import UserError

install_reader()


def test_config_in_an_old_file_is_not_run_on_resuming(tmp_path: Path) -> None:
    small_run(tmp_path, checkpoint={'interval': 4}).train()
    path, canary = tmp_path / 'iter_8.pth', tmp_path / 'canary'
    checkpoint = torch.load(path, weights_only=False)
    checkpoint['meta']['config'] = f'open({str(canary)!r}, "w").close()'
    torch.save(checkpoint, path)
    resumed = small_run(tmp_path, resume=True, load_from=str(path))
    resumed.train()
    assert resumed.iter == 12
    assert not canary.exists()


def test_full_unpickling_is_not_reached(tmp_path: Path) -> None:
    canary = tmp_path / 'canary'

    class Touch:
        def __reduce__(self) -> tuple:
            return Path.touch, (canary,)

    torch.save({'state_dict': Dropped().state_dict(), 'extra': Touch()}, tmp_path / 'a.pth')
    with pytest.raises(UserError, match='refused to unpickle'):
        load_checkpoint(Dropped(), str(tmp_path / 'a.pth'))
    assert not canary.exists()


@pytest.mark.parametrize('is_open', [False, True])
def test_optimizer_outlives_the_file_that_it_came_from(tmp_path: Path, is_open: bool) -> None:
    """If a file that is mapped to memory is overwritten in place, the run changes or crashes."""
    path = tmp_path / 'a.pth'
    torch.save({'state_dict': {}, 'optimizer': {'momentum': torch.ones(1000)}}, path)
    held = open_checkpoint(path) if is_open else None
    read = CheckpointLoader.load_checkpoint(str(path), 'cpu')
    with path.open('r+b') as file:
        file.write(b'\0' * path.stat().st_size)
    assert (read['optimizer']['momentum'] == 1).all()
    del held


def test_an_open_file_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / 'a.pth'
    torch.save({'state_dict': {'a': torch.ones(2)}, 'meta': {'config': 'x'}}, path)
    held = open_checkpoint(path)
    with monkeypatch.context() as patched:
        patched.setattr(torch, 'load', None)
        assert open_checkpoint(path) is held
        copied = CheckpointLoader.load_checkpoint(str(path))
    copied['state_dict']['a'][0] = 5
    assert copied['meta'] == {} and held['meta'] == {'config': 'x'}
    assert held['state_dict']['a'].tolist() == [1, 1]

    torch.save({'state_dict': {'a': torch.zeros(2)}}, tmp_path / 'b.pth')
    (tmp_path / 'b.pth').replace(path)
    changed = open_checkpoint(path)
    assert changed['state_dict']['a'].tolist() == [0, 0]
    del changed
    assert opened_checkpoint(path) is None
