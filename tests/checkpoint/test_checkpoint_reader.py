"""The files that the reader reads, and those that it refuses without running any code in them."""

import argparse
import os
import pickle
import random
import subprocess
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checkpoint_files import CfgNode, backbone, classifier_state, save_classifier, yacs, zip_of_pickle
from mmengine.config import ConfigDict
from mmengine.logging import HistoryBuffer
from safetensors.torch import save_file

from crossformer_mm.checkpoint import open_checkpoint, read_checkpoint, recognise_arch
from crossformer_mm.utils.errors import UserError


def save(path: Path, checkpoint: Any, zipped: bool = True) -> Path:
    with yacs():
        torch.save(checkpoint, path, _use_new_zipfile_serialization=zipped)
    return path


@pytest.mark.parametrize('zipped', [True, False])
@pytest.mark.parametrize('mmap', [True, False])
def test_released_file_is_read_whole_without_yacs(tmp_path: Path, zipped: bool, mmap: bool) -> None:
    state = classifier_state(backbone())
    path = save_classifier(tmp_path / 'released.pth', state, zipped)
    checkpoint = read_checkpoint(path, mmap=mmap)
    assert checkpoint['config'] == {'DATA': {'IMG_SIZE': 224}, 'MODEL': {'DEPTHS': [2, 2, 6, 2]}}
    assert type(checkpoint['max_accuracy']) is float and checkpoint['max_accuracy'] == 82.5
    assert checkpoint['epoch'] == 299
    assert list(checkpoint['model']) == list(state)
    assert all(torch.equal(checkpoint['model'][name], state[name]) for name in state)


def test_plain_objects_keep_their_values(tmp_path: Path) -> None:
    values = {
        'args': argparse.Namespace(lr=0.1, data=argparse.Namespace(size=np.int64(224))),
        'float32': np.float32(1.5),
        'bool': np.bool_(True),
        'matrix': np.arange(6.0).reshape(2, 3).T,
        'swapped': np.arange(3, dtype='>i4'),
        'empty': np.array([]),
        'names': np.array(['a', 'bc']),
        'config': ConfigDict(model={'type': 'A'}),
        'bytes': b'\x00\xff',
        'counts': OrderedDict(a=1),
    }
    read = read_checkpoint(save(tmp_path / 'a.pth', values))
    assert read['args'].lr == 0.1 and read['args'].data.size == 224
    assert (read['float32'], read['bool'], read['bytes']) == (1.5, True, b'\x00\xff')
    assert read['config'] == {'model': {'type': 'A'}} and read['counts'] == {'a': 1}
    for name in ('matrix', 'swapped', 'empty', 'names'):
        assert type(read[name]) is np.ndarray and read[name].dtype == values[name].dtype
        np.testing.assert_array_equal(read[name], values[name])


def test_history_buffers_come_back_with_their_methods(tmp_path: Path) -> None:
    history = HistoryBuffer([1.0, 2.0, 6.0], [1, 1, 1])
    read = read_checkpoint(save(tmp_path / 'a.pth', {'loss': history}))['loss']
    assert isinstance(read, HistoryBuffer)
    assert read.mean() == 3 and read.statistics('max') == 6


def test_state_dict_keeps_the_versions_of_its_modules_and_nothing_else(tmp_path: Path) -> None:
    state = torch.nn.BatchNorm1d(2).state_dict()
    names = list(state)
    state.keys = None  # an attribute that hides a method
    read = read_checkpoint(save(tmp_path / 'a.pth', {'state_dict': state}))['state_dict']
    assert read._metadata[''] == {'version': 2}
    assert list(read.keys()) == names


def test_shared_and_cyclic_structures_end(tmp_path: Path) -> None:
    cycle: list = []
    cycle.append(cycle)
    doubled: Any = ['laugh']
    for _ in range(100):
        doubled = [doubled, doubled]
    read = read_checkpoint(save(tmp_path / 'a.pth', {'cycle': cycle, 'doubled': doubled}))
    assert read['cycle'][0] is read['cycle']
    assert read['doubled'][0] is read['doubled'][1]


def test_safetensors_are_recognised_by_content(tmp_path: Path) -> None:
    tensors = {'a': torch.arange(3.0)}
    save_file(tensors, tmp_path / 'a.safetensors')
    (tmp_path / 'a.safetensors').rename(tmp_path / 'a.pth')
    read = read_checkpoint(tmp_path / 'a.pth')
    assert read['meta'] == {} and torch.equal(read['state_dict']['a'], tensors['a'])


def test_compressed_zip_is_not_mapped_into_memory(tmp_path: Path) -> None:
    """If it were mapped, compressed bytes would be used as weights."""
    save(tmp_path / 'a.pth', {'model': {'a': torch.zeros(1000)}})
    with (
        zipfile.ZipFile(tmp_path / 'a.pth') as stored,
        zipfile.ZipFile(tmp_path / 'b.pth', 'w', zipfile.ZIP_DEFLATED) as deflated,
    ):
        for entry in stored.infolist():
            deflated.writestr(entry.filename, stored.read(entry))
    assert not read_checkpoint(tmp_path / 'b.pth', mmap=True)['model']['a'].any()


# --- files that run code -------------------------------------------------------------------------------


class Call:
    """Pickles as a call."""

    def __init__(self, function: Callable, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple:
        return self.call


def raw_call(module: str, name: str, argument: str) -> bytes:
    """A pickle {'model': {}, 'config': module.name(argument)}, even if the name does not exist."""
    text = argument.encode()
    return (
        b'\x80\x02}(X\x05\x00\x00\x00model}X\x06\x00\x00\x00config'
        + f'c{module}\n{name}\n'.encode()
        + b'X'
        + len(text).to_bytes(4, 'little')
        + text
        + b'\x85Ru.'
    )


CALLS = {
    'os.system': lambda command: Call(os.system, command),
    'subprocess': lambda command: Call(
        subprocess.Popen, command, -1, None, None, None, None, None, True, True
    ),
    'eval': lambda command: Call(eval, f'__import__("os").system({command!r})'),
    'exec': lambda command: Call(exec, f'import os; os.system({command!r})'),
    'getattr': lambda command: Call(getattr, torch.Tensor, 'tofile'),
    'unpickling': lambda command: Call(pickle.loads, pickle.dumps(Call(os.system, command))),
    'torch.load': lambda command: Call(torch.load, command),
}
PLACES = {
    'entry': lambda call: {'model': {'a': torch.zeros(1)}, 'extra': call},
    'nested': lambda call: {'model': {'a': torch.zeros(1)}, 'optimizer': {'state': [({'b': call},)]}},
    'config': lambda call: {'model': {}, 'config': CfgNode(AUG=CfgNode(X=call))},
    'tensors': lambda call: {'model': OrderedDict(a=call)},
    'whole': lambda call: call,
}


@pytest.mark.parametrize('zipped', [True, False])
@pytest.mark.parametrize('place', PLACES)
@pytest.mark.parametrize('call', CALLS)
def test_no_call_is_made(tmp_path: Path, call: str, place: str, zipped: bool) -> None:
    canary = tmp_path / 'canary'
    path = save(tmp_path / 'a.pth', PLACES[place](CALLS[call](f'touch {canary}')), zipped)
    with pytest.raises(
        UserError, match=r"refused to unpickle '[\w.]*(system|Popen|eval|exec|getattr|loads?)'"
    ):
        read_checkpoint(path)
    assert not canary.exists()


LOOKALIKES = [
    ('yacs.config', 'os.system'),
    ('yacs.config', 'CfgNode.__init__.__globals__'),
    ('yacs', 'config.CfgNode.update'),
    ('torch._utils', '_rebuild_tensor_v2.__globals__'),
    ('torch._utils', '_import_dotted_name'),
    ('torch.serialization', '_get_layout.__globals__'),
    ('torch', 'Tensor.__reduce_ex__'),
    ('collections', 'OrderedDict.fromkeys'),
    ('numpy.core.multiarray', 'scalar.__globals__'),
    ('numpy.core.multiarray', 'fromfile'),
    ('numpy.testing._private.utils', 'runstring'),
    ('numpy', 'load'),
    ('argparse', 'ArgumentParser'),
    ('mmengine.logging.history_buffer', 'HistoryBuffer.__init__'),
    ('mmengine.config.config', 'Config.fromstring'),
    ('posix', 'system'),
    ('nt', 'system'),
    ('__builtin__', 'apply'),
    ('builtins', '__import__'),
    ('\x1b[31m', 'x'),
]


@pytest.mark.parametrize(('module', 'name'), LOOKALIKES)
def test_names_that_look_allowed_are_not(tmp_path: Path, module: str, name: str) -> None:
    canary = tmp_path / 'canary'
    path = zip_of_pickle(tmp_path / 'a.pth', raw_call(module, name, f'touch {canary}'))
    with pytest.raises(UserError, match='refused to unpickle') as refused:
        read_checkpoint(path)
    assert str(refused.value).isprintable()
    assert not canary.exists()


def test_what_other_code_allows_is_not_allowed_here(tmp_path: Path) -> None:
    path = save(tmp_path / 'a.pth', {'model': {}, 'extra': Call(Path, 'a')})
    with torch.serialization.safe_globals([Path]):
        before = set(torch.serialization.get_safe_globals())
        with pytest.raises(UserError, match=r'pathlib\.Path'):
            read_checkpoint(path)
        good = save(tmp_path / 'b.pth', {'model': {}, 'value': np.float64(1)})
        with ThreadPoolExecutor(8) as pool:
            assert all(read['value'] == 1 for read in pool.map(read_checkpoint, [good] * 60))
        assert set(torch.serialization.get_safe_globals()) == before


def test_arrays_of_objects_are_refused(tmp_path: Path) -> None:
    path = save(tmp_path / 'a.pth', {'model': {}, 'extra': np.array([None, {}], dtype=object)})
    with pytest.raises(UserError, match='not plain data'):
        read_checkpoint(path)


# --- files that are not checkpoints ---------------------------------------------------------------------


def broken_files(folder: Path) -> dict[str, Path]:
    whole = save(folder / 'whole.pth', {'model': {'a': torch.zeros(1000)}}).read_bytes()
    legacy = save(folder / 'legacy.pth', {'model': {'a': torch.zeros(1000)}}, zipped=False).read_bytes()
    save_file({'a': torch.zeros(1000)}, folder / 'whole.safetensors')
    tensors = (folder / 'whole.safetensors').read_bytes()
    contents = {
        'empty': b'',
        'one byte': b'P',
        'text': b'CrossFormer-S, see the README\n',
        'page': b'<!DOCTYPE html><html><title>Download quota exceeded</title></html>',
        'cut zip': whole[:-500],
        'cut early': whole[:100],
        'cut legacy': legacy[:-500],
        'cut legacy early': legacy[:50],
        'cut safetensors': tensors[:-500],
        'noise in pickle': whole.replace(b'model', b'\xff\xff\xff\xff\xff'),
        'bare pickle': pickle.dumps({'model': {}}, protocol=2),
        'list': save(folder / 'list.pth', [1, 2]).read_bytes(),
        'new pickle protocol': pickle.dumps({'model': {}}, protocol=4),
    }
    paths = {}
    for name, content in contents.items():
        paths[name] = folder / f'{name}.pth'
        paths[name].write_bytes(content)
    with zipfile.ZipFile(folder / 'other zip.pth', 'w') as archive:
        archive.writestr('readme.txt', 'no checkpoint')
    (folder / 'folder.pth').mkdir()
    (folder / 'text.safetensors').write_bytes(b'no tensors at all')
    others = ('other zip.pth', 'folder.pth', 'text.safetensors', 'missing.pth')
    return paths | {name: folder / name for name in others}


def test_broken_files_are_named_in_one_line(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # of torch, about the pickle protocol
        for name, path in broken_files(tmp_path).items():
            with pytest.raises(UserError) as error:
                read_checkpoint(path)
            message = str(error.value)
            assert str(path) in message and '\n' not in message and len(message) < 400, name


def mutated(content: bytes, seed: int) -> bytes:
    """``content`` with a few bytes changed, removed, inserted or repeated."""
    chance = random.Random(seed)
    content = bytearray(content)
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(len(content))
        some = chance.randint(1, 6)
        new = [
            chance.randbytes(some) + content[at + some :],
            content[at + some :],
            chance.randbytes(some) + content[at:],
            content[chance.randrange(len(content)) :],
        ]
        content = content[:at] + chance.choice(new)
    return bytes(content)


@pytest.mark.filterwarnings('ignore')
def test_mutated_files_are_read_or_named(tmp_path: Path) -> None:
    state, path = OrderedDict(a=torch.arange(6.0), b=torch.ones(3)), tmp_path / 'a.pth'
    more = {'hist': HistoryBuffer([1.0], [1]), 'array': np.arange(3)}
    legacy = save_classifier(path, state, zipped=False, **more).read_bytes()
    with zipfile.ZipFile(save_classifier(path, state, **more)) as archive:
        pickled = archive.read('a/data.pkl')
    refused = 0
    for seed in range(200):
        for write in (
            lambda seed: path.write_bytes(mutated(legacy, seed)),
            lambda seed: zip_of_pickle(path, mutated(pickled, seed)),
        ):
            write(seed)
            try:
                read_checkpoint(path)
            except UserError as error:
                refused += 1
                assert str(error).isprintable()
    assert refused > 350


@pytest.mark.parametrize('stored', [True, False])
def test_a_flipped_bit_is_found(tmp_path: Path, stored: bool) -> None:
    """torch itself would read other weights."""
    whole, path = save(tmp_path / 'whole.pth', {'model': {'a': torch.rand(3000)}}), tmp_path / 'a.pth'
    kind = zipfile.ZIP_STORED if stored else zipfile.ZIP_DEFLATED
    with zipfile.ZipFile(whole) as source, zipfile.ZipFile(path, 'w', kind) as archive:
        for entry in source.infolist():
            archive.writestr(entry.filename, source.read(entry))
    read_checkpoint(path)
    with zipfile.ZipFile(path) as archive:
        offset = archive.getinfo('whole/data/0').header_offset
    content = bytearray(path.read_bytes())
    content[offset + 5000] ^= 64
    path.write_bytes(content)
    for read in (read_checkpoint, open_checkpoint):
        with pytest.raises(UserError, match=r'is damaged \(wrong checksum of whole/data/0\); copy or downl'):
            read(path)


def test_files_without_checksums_are_not_called_damaged(tmp_path: Path) -> None:
    before = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    try:
        path = save(tmp_path / 'a.pth', {'model': {'a': torch.ones(3)}})
    finally:
        torch.serialization.set_crc32_options(before)
    assert read_checkpoint(path)['model']['a'].sum() == 3


def test_a_file_is_verified_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(tmp_path / 'a.pth', {'model': {'a': torch.ones(3)}})
    open_checkpoint(path, verify=False)
    read_checkpoint(path)
    monkeypatch.setattr(zipfile.ZipFile, 'open', None)
    read_checkpoint(path)
    open_checkpoint(path)


@pytest.mark.parametrize('scheme', ['https', 'HTTP', 's3', 'open-mmlab:s3', 'torchvision', 'file'])
def test_addresses_are_not_taken_for_files(scheme: str) -> None:
    for address in (f'{scheme}://a.org/b.pth', Path(f'{scheme}://a.org/b.pth')):
        with pytest.raises(UserError, match=r'a\.org/b\.pth: is an address, .* download it first'):
            open_checkpoint(address)


@pytest.mark.parametrize(
    ('source', 'reason'),
    [
        (None, 'None: is not the name'),
        ('~nobody-of-this-name/a.pth', 'cannot be read'),
        ('a' * 300, 'cannot be read'),
    ],
)
def test_what_is_no_path_is_named(source: Any, reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        open_checkpoint(source)


def test_a_pipe_does_not_block(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / 'a.pth')
    with pytest.raises(UserError, match='is not a file'):
        read_checkpoint(tmp_path / 'a.pth')


def test_torchscript_is_named(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / 'a.pth', 'w') as archive:
        archive.writestr('a/data.pkl', b'')
        archive.writestr('a/constants.pkl', b'')
    with pytest.raises(UserError, match='TorchScript'):
        read_checkpoint(tmp_path / 'a.pth')


# --- recognition ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ('network', 'names'),
    [
        ('ResNet', ['conv1.weight', 'layer1.0.conv1.weight', 'fc.bias']),
        ('Swin', ['patch_embed.proj.weight', 'layers.0.blocks.0.attn.relative_position_bias_table']),
        ('ConvNeXt', ['stages.0.0.gamma', 'downsample_layers.0.0.weight']),
        ('ViT', ['cls_token', 'blocks.0.attn.qkv.weight']),
        ('first tensors are encoder.weight', ['encoder.weight']),
    ],
)
def test_other_networks_are_recognised(network: str, names: list[str]) -> None:
    with pytest.raises(UserError, match=f'holds no CrossFormer.*{network}'):
        recognise_arch({name: torch.zeros(1) for name in names})
