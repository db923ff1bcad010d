"""mmengine's own loading, through the safe reader."""

from pathlib import Path

import pytest
import torch
from checkpoint_files import NARROW, backbone, prefixed, zip_of_pickle
from mmengine.model import BaseModel, BaseModule, ModuleList, PretrainedInit
from mmengine.runner import CheckpointLoader, load_checkpoint
from small_runs import Dropped, small_run
from torch import nn

from crossformer_mm import CrossFormer
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


@pytest.mark.parametrize(
    'scheme',
    [
        'http',
        'https',
        'pavi',
        's3',
        'petrel',
        'open-mmlab:s3',
        'modelzoo',
        'torchvision',
        'open-mmlab',
        'mmcls',
    ],
)
def test_no_address_is_read(scheme: str) -> None:
    for load in (
        lambda address: load_checkpoint(Dropped(), address),
        lambda address: PretrainedInit(address)(Dropped()),
        lambda address: PretrainedInit(address, prefix='layers.')(Dropped().layers),
        lambda address: CrossFormer(NARROW, pretrained=address).init_weights(),
    ):
        with pytest.raises(UserError, match='resnet50: is an address, not a file; download it first'):
            load(f'{scheme}://resnet50')


class Part(BaseModule):
    """A neck or head."""

    def __init__(self, init_cfg: object) -> None:
        super().__init__(init_cfg)
        self.layer = nn.Linear(2, 2)


class Whole(BaseModel):
    """A model whose parts, and itself, have an ``init_cfg``."""

    def __init__(self, init_cfg: object = None, neck: object = None, head: object = None) -> None:
        super().__init__(init_cfg=init_cfg)
        self.backbone = CrossFormer(NARROW)
        self.neck = Part(neck)
        self.bbox_head = ModuleList([Part(head)])

    def forward(self) -> None:
        """Not used."""


@pytest.fixture(scope='module')
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Files of a whole model, of its parts, and of other models."""
    torch.manual_seed(0)
    state = Whole().state_dict()
    contents = {
        'whole': state,
        'compiled': prefixed(state, 'model._orig_mod.'),
        'neck': {'layer.weight': torch.ones(2, 2), 'layer.bias': torch.ones(2)},
        'partial neck': {'layer.weight': torch.ones(2, 2)},
        'other neck': {'layer.weight': torch.ones(3, 2), 'layer.bias': torch.ones(3)},
        'backbone': backbone().state_dict(),
        'headless': {name: tensor for name, tensor in state.items() if not name.startswith('bbox_head.')},
    }
    folder = tmp_path_factory.mktemp('files')
    for name, content in contents.items():
        torch.save({'state_dict': content}, folder / f'{name}.pth')
    zip_of_pickle(folder / 'hostile.pth', b'cposix\nsystem\n(X\x04\x00\x00\x00true tR.')
    return {path.stem: str(path) for path in folder.iterdir()}


def pretrained(path: str, **more: object) -> dict[str, object]:
    return {'type': 'Pretrained', 'checkpoint': path, **more}


def test_every_part_is_loaded_whole(files: dict[str, str]) -> None:
    wanted = torch.load(files['whole'])['state_dict']
    for init in (
        {'init_cfg': pretrained(files['whole'])},
        {'init_cfg': [pretrained(files['compiled'])]},
        {'init_cfg': {**pretrained(files['whole']), 'type': PretrainedInit}},
    ):
        model = Whole(**init)
        model.init_weights()
        assert all(torch.equal(tensor, wanted[name]) for name, tensor in model.state_dict().items())
    model = Whole(
        neck=[pretrained(files['neck']), {'type': 'Constant', 'layer': 'Linear', 'val': 7}],
        head=pretrained(files['compiled'], prefix='bbox_head.0'),
    )
    model.init_weights()
    assert (model.neck.layer.weight == 1).all()
    assert torch.equal(model.bbox_head[0].layer.weight, wanted['bbox_head.0.layer.weight'])


@pytest.mark.parametrize(
    ('part', 'file', 'more', 'message'),
    [
        (
            'init_cfg',
            'backbone',
            {},
            r'does not fit .*\(the file holds a backbone, the model is a detector\)',
        ),
        ('init_cfg', 'headless', {}, r'2 missing: bbox_head\.0\.layer\.weight'),
        ('init_cfg', 'neck', {}, 'missing: backbone'),
        ('neck', 'whole', {}, 'does not fit the model: 2 missing: layer'),
        ('neck', 'partial neck', {}, '1 missing: layer.bias'),
        ('neck', 'other neck', {}, '2 of another shape: layer'),
        ('neck', 'whole', {'prefix': 'nack.'}, 'no tensors with the prefix nack., but backbone'),
        ('head', 'whole', {'prefix': 'backbone.'}, 'missing: layer.weight, layer.bias; .* unexpected'),
        ('head', 'hostile', {}, "refused to unpickle 'posix.system'"),
        ('head', 'no file', {}, 'cannot be read'),
    ],
)
def test_no_part_is_loaded_in_part(
    files: dict[str, str], part: str, file: str, more: dict[str, str], message: str
) -> None:
    path = files.get(file, file)
    with pytest.raises(UserError, match=message) as error:
        Whole(**{part: pretrained(path, **more)}).init_weights()
    assert str(error.value).startswith(path) and str(error.value).isprintable()


@pytest.mark.parametrize('init_cfg', [list, lambda init: init | {'type': PretrainedInit}])
def test_the_backbones_own_setting_in_other_notations(files: dict[str, str], init_cfg: type) -> None:
    setting = pretrained(files['whole'], prefix='backbone.')
    model = CrossFormer(NARROW, init_cfg=[setting] if init_cfg is list else init_cfg(setting))
    model.init_weights()
    wanted = torch.load(files['whole'])['state_dict']
    assert torch.equal(model.patch_embed.norm.weight, wanted['backbone.patch_embed.norm.weight'])
    with pytest.raises(UserError, match='does not fit the model'):
        CrossFormer(NARROW, init_cfg=[pretrained(files['neck'])]).init_weights()


def test_the_toolboxes_own_loading_is_strict(files: dict[str, str]) -> None:
    model = Whole()
    load_checkpoint(model, files['compiled'])
    assert torch.equal(model.neck.layer.weight, torch.load(files['whole'])['state_dict']['neck.layer.weight'])
    with pytest.raises(UserError, match='the file holds a backbone, the model is a detector'):
        load_checkpoint(Whole(), files['backbone'])


def test_another_backbones_file_may_have_a_classifier_and_lack_counters(tmp_path: Path) -> None:
    """As torchvision's oldest files do."""
    source = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    state = {name: tensor for name, tensor in source.state_dict().items() if 'tracked' not in name}
    torch.save(state | {'fc.weight': torch.ones(2, 4)}, tmp_path / 'a.pth')
    part = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    PretrainedInit(str(tmp_path / 'a.pth'))(part)
    assert torch.equal(part[0].weight, source[0].weight)
    torch.save({'0.weight': state['0.weight']}, tmp_path / 'a.pth')
    with pytest.raises(UserError, match=r'5 missing: 0\.bias'):
        PretrainedInit(str(tmp_path / 'a.pth'))(part)
