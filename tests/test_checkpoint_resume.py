"""mmengine's own loading, through the safe reader."""

import argparse
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from mmengine.model import BaseModel
from mmengine.runner import CheckpointLoader, Runner, load_checkpoint
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from crossformer_mm.checkpoint import install_reader, open_checkpoint
from crossformer_mm.checkpoint.reader import opened_checkpoint
from crossformer_mm.checkpoint.resume import LOCAL
from crossformer_mm.utils.errors import UserError


class Regression(BaseModel):
    """One linear layer and its squared error."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 1)

    def forward(self, x: Tensor, y: Tensor, mode: str) -> dict[str, Tensor]:
        return {'loss': (self.linear(x) - y).square().mean()}


@pytest.fixture(autouse=True)
def reader() -> Iterator[None]:
    """Install the reader, and put mmengine's own back after the test."""
    own = CheckpointLoader._schemes[LOCAL]
    install_reader()
    install_reader()
    yield
    CheckpointLoader.register_scheme(prefixes=LOCAL, loader=own, force=True)


def runner(folder: Path, epochs: int, **more: object) -> Runner:
    torch.manual_seed(0)
    data = TensorDataset(torch.randn(8, 2), torch.randn(8, 1))
    return Runner(
        model=Regression(),
        work_dir=str(folder),
        train_dataloader=DataLoader(data, batch_size=4),
        train_cfg={'by_epoch': True, 'max_epochs': epochs},
        optim_wrapper={'optimizer': {'type': 'AdamW', 'lr': 0.1}},
        param_scheduler=[{'type': 'MultiStepLR', 'milestones': [1], 'by_epoch': True}],
        default_hooks={'logger': {'type': 'LoggerHook', 'interval': 1}},
        experiment_name=f'{folder.name}-{epochs}',
        **more,
    )


def test_interrupted_run_resumes_to_the_same_weights(tmp_path: Path) -> None:
    whole = runner(tmp_path / 'whole', 3)
    whole.train()
    middle = str(tmp_path / 'whole' / 'epoch_2.pth')
    resumed = runner(tmp_path / 'resumed', 3, resume=True, load_from=middle)
    resumed.train()
    assert resumed.epoch == 3 and resumed.iter == 6
    assert torch.equal(resumed.model.linear.weight, whole.model.linear.weight)
    losses = resumed.message_hub.get_scalar('train/loss')
    torch.testing.assert_close(losses.data[0], whole.message_hub.get_scalar('train/loss').data[0])


def test_config_in_an_old_file_is_not_run_on_resuming(tmp_path: Path) -> None:
    runner(tmp_path / 'run', 1).train()
    path, canary = tmp_path / 'run' / 'epoch_1.pth', tmp_path / 'canary'
    checkpoint = torch.load(path, weights_only=False)
    checkpoint['meta']['config'] = f'open({str(canary)!r}, "w").close()'
    torch.save(checkpoint, path)
    resumed = runner(tmp_path / 'run', 2, resume=True)
    resumed.train()
    assert resumed.epoch == 2
    assert not canary.exists()


def test_full_unpickling_is_not_reached(tmp_path: Path) -> None:
    canary = tmp_path / 'canary'

    class Touch:
        def __reduce__(self) -> tuple:
            return Path.touch, (canary,)

    torch.save({'state_dict': Regression().state_dict(), 'extra': Touch()}, tmp_path / 'a.pth')
    with pytest.raises(UserError, match='refused to unpickle'):
        load_checkpoint(Regression(), str(tmp_path / 'a.pth'))
    assert not canary.exists()


def test_optimizer_outlives_the_file_that_it_came_from(tmp_path: Path) -> None:
    """Overwritten in place, a file that is mapped into memory would change or kill the run."""
    state = {'momentum': torch.ones(1000)}
    torch.save({'state_dict': {}, 'optimizer': state, 'args': argparse.Namespace(a=1)}, tmp_path / 'a.pth')
    read = CheckpointLoader.load_checkpoint(str(tmp_path / 'a.pth'), 'cpu')
    with (tmp_path / 'a.pth').open('r+b') as file:
        file.truncate(0)
    assert read['optimizer']['momentum'].sum() == 1000


def test_an_open_file_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / 'a.pth'
    torch.save({'state_dict': {'a': torch.ones(2)}, 'meta': {'config': 'x'}}, path)
    held = open_checkpoint(path)
    with monkeypatch.context() as patched:
        patched.setattr(torch, 'load', None)
        assert open_checkpoint(path) is held
        copied = CheckpointLoader.load_checkpoint(str(path))
    copied['state_dict']['a'][0] = 5  # what mmengine gets is its own
    assert copied['meta'] == {} and held['meta'] == {'config': 'x'}
    assert held['state_dict']['a'].tolist() == [1, 1]

    torch.save({'state_dict': {'a': torch.zeros(2)}}, tmp_path / 'b.pth')
    (tmp_path / 'b.pth').replace(path)
    changed = open_checkpoint(path)
    assert changed['state_dict']['a'].tolist() == [0, 0]
    del changed
    assert opened_checkpoint(path) is None
