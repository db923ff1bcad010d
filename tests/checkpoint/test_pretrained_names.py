"""Backbones from weights alone: by name, from files and from folders; and folders that are saved."""

import dataclasses
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoint_files import (
    NARROW,
    backbone,
    classifier_state,
    prefixed,
    save_classifier,
    save_every_kind,
    save_old_toolbox,
)
from mmengine.config import Config
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from crossformer_mm import CrossFormer
from crossformer_mm.checkpoint import install_reader
from crossformer_mm.checkpoint.cache import PAGE, cache_folder
from crossformer_mm.checkpoint.convert import convert_checkpoint
from crossformer_mm.engine import cli
from crossformer_mm.engine.convert import conversion_parser, convert
from crossformer_mm.engine.train import backbone_file, open_weights
from crossformer_mm.models.arch import ARCHS, resolve_arch
from crossformer_mm.utils.errors import UserError
from crossformer_mm.utils.files import sha256_of

TINY = {'embed_dims': 16, 'depths': (1, 2, 1, 1), 'num_heads': (1, 1, 1, 2)}
TRAIN = Path(__file__).parents[2] / 'tools' / 'train.py'
LARGE = dict(group_sizes=(5, 4, 3, 2), intervals=(4, 2, 2, 1))


def same_outputs(one: CrossFormer, other: CrossFormer) -> bool:
    """Whether two networks compute the same, to the bit, from an image with groups of every kind."""
    images = torch.rand(1, 3, 150, 200, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return all(torch.equal(a, b) for a, b in zip(one(images), other(images), strict=True))


def put(*words: object) -> int:
    """Run ``crossformer convert``."""
    return cli.run(conversion_parser(), convert, [str(word) for word in words])


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, in a working folder without files; arch t is tiny."""
    monkeypatch.setenv('CROSSFORMER_HOME', str(tmp_path / 'home'))
    (tmp_path / 'here').mkdir()
    monkeypatch.chdir(tmp_path / 'here')
    monkeypatch.setitem(ARCHS, 't', resolve_arch(TINY))
    return tmp_path / 'home'


@pytest.fixture
def released(tmp_path: Path) -> Path:
    """A released classifier of arch t."""
    return save_classifier(tmp_path / 'released.pth', classifier_state(backbone('t')))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A saved network with groups that are not the standard ones."""
    backbone('t', **LARGE).save_pretrained(tmp_path / 'saved')
    return tmp_path / 'saved'


@pytest.mark.parametrize(
    'settings',
    [
        dict(arch='t'),
        dict(arch=TINY, **LARGE),
        dict(arch={**TINY, 'depths': (1, 1, 4, 1), 'acl': True, 'drop_path_rate': 0.3}),
        dict(arch='t', long_distance='window', adaptive_intervals=True, **LARGE),
        dict(arch='t', long_distance='none', out_indices=(0, 2)),
        dict(arch='t', position='dpb_residual', out_indices=[3]),
        dict(arch='t', position='rpb', long_distance='window'),
        dict(arch='t', position='ape', cross_scale_stages=1),
    ],
)
def test_a_saved_network_computes_the_same(tmp_path: Path, settings: dict[str, Any]) -> None:
    saved = backbone(**settings)
    saved.save_pretrained(tmp_path / 'new' / 'folder')
    convert_or_not = [tmp_path / 'new' / 'folder', tmp_path / 'new' / 'folder' / 'model.safetensors']
    if 3 in saved.out_indices:  # a converted file has all stages
        convert_checkpoint(convert_or_not[1], tmp_path / 'converted.pth')
        convert_or_not.append(tmp_path / 'converted.pth')
    for source in convert_or_not:
        model = CrossFormer.from_pretrained(str(source))
        assert model.settings == saved.settings and not model.training
        assert same_outputs(model, saved)


def test_the_folder_is_as_other_libraries_expect(folder: Path) -> None:
    config = json.loads((folder / 'config.json').read_text())
    assert (config['model_type'], config['arch'], config['group_sizes']) == ('crossformer', 't', [5, 4, 3, 2])
    with safe_open(folder / 'model.safetensors', 'pt') as file:
        assert file.metadata()['format'] == 'pt'
    CrossFormer('t').load_state_dict(load_file(folder / 'model.safetensors'), strict=True)


def test_arguments_win_over_settings(folder: Path) -> None:
    model = CrossFormer.from_pretrained(folder, out_indices=(1,), long_distance='window', drop_path_rate=0.5)
    assert model.settings | {'arch': 't'} == {
        **backbone('t', **LARGE).settings,
        'out_indices': (1,),
        'long_distance': 'window',
    }
    assert model.layers[1].blocks[-1].drop_path.rate > 0


def test_every_kind_of_file(tmp_path: Path) -> None:
    saved = backbone('t')
    for kind, path in save_every_kind(tmp_path, saved).items():
        model = CrossFormer.from_pretrained(path)
        assert model.settings == saved.settings, kind
        assert kind == 'half' or same_outputs(model, saved), kind


def test_the_tensors_show_ablations(tmp_path: Path) -> None:
    saved = backbone(dataclasses.asdict(resolve_arch(NARROW)), position='ape', cross_scale_stages=2)
    torch.save(saved.state_dict(), tmp_path / 'a.pth')
    assert CrossFormer.from_pretrained(tmp_path / 'a.pth').settings == saved.settings


def test_the_layout_of_a_released_classifier(tmp_path: Path) -> None:
    cooled = {**TINY, 'depths': (1, 1, 4, 1), 'acl': True}
    path = save_classifier(tmp_path / 'a.pth', classifier_state(backbone(cooled)))
    model = CrossFormer.from_pretrained(path)
    assert model.long_distance == 'window'
    assert model.settings['arch'] == dataclasses.asdict(resolve_arch(cooled))


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (lambda text: text[:-20], r'config\.json: is not valid JSON'),
        (lambda text: '[' * 100_000, r'config\.json: is not valid JSON'),
        (lambda text: '[1]', r'config\.json: holds no settings of a CrossFormer'),
        (lambda text: text.replace('arch"', 'arc"'), r'config\.json: holds no settings of a CrossFormer'),
        (lambda text: text.replace('intervals"', 'intervalls"', 1), r'config\.json: unknown settings interv'),
        (lambda text: text.replace('"adaptive', '"init_cfg": {}, "adaptive'), 'unknown settings init_cfg'),
        (lambda text: text.replace('"map"', '"mapp"'), r"config\.json: long_distance='mapp' must be"),
        (lambda text: text.replace('"t"', '["t"]'), r'config\.json: arch=.* must be one of'),
        (lambda text: text.replace('"t"', '"s"'), r"the file's arch is t, the model's s"),
    ],
)
def test_a_broken_config_is_one_line(folder: Path, change: Callable[[str], str], message: str) -> None:
    config = folder / 'config.json'
    before = config.read_text()
    config.write_text(change(before))
    assert config.read_text() != before
    with pytest.raises(UserError, match=message):
        CrossFormer.from_pretrained(folder)


def test_missing_and_damaged_files(folder: Path, tmp_path: Path) -> None:
    (folder / 'config.json').unlink()
    with pytest.raises(UserError, match=r'config\.json: cannot be read'):
        CrossFormer.from_pretrained(folder)
    weights = folder / 'model.safetensors'
    assert CrossFormer.from_pretrained(weights).settings['group_sizes'] == (5, 4, 3, 2), 'noted in the file'
    weights.write_bytes(weights.read_bytes()[:-9])
    with pytest.raises(UserError, match=r'model\.safetensors: .*cut off'):
        CrossFormer.from_pretrained(weights)
    weights.unlink()
    with pytest.raises(UserError, match=r'is a folder without model\.safetensors'):
        CrossFormer.from_pretrained(folder)
    save_file({'layer1.0.conv1.weight': torch.ones(1)}, tmp_path / 'resnet.safetensors')
    with pytest.raises(UserError, match='holds no CrossFormer, it looks like ResNet'):
        CrossFormer.from_pretrained(tmp_path / 'resnet.safetensors')


def test_another_arch_is_one_line(released: Path) -> None:
    with pytest.raises(UserError, match=r"released\.pth: does not fit.*file's arch is t, the model's s"):
        CrossFormer.from_pretrained(released, arch='s')
    with pytest.raises(UserError, match=r"released\.pth: unknown arch='q'"):
        CrossFormer.from_pretrained(released, arch='q')


@pytest.mark.parametrize('name', ['model.safetensors', 'config.json'])
def test_files_of_users_are_not_replaced(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text('mine')
    with pytest.raises(UserError, match=f'{name} exists, and was not written by this project'):
        backbone('t').save_pretrained(tmp_path)
    assert (tmp_path / name).read_text() == 'mine'
    assert len({path.name for path in tmp_path.iterdir()} & {'model.safetensors', 'config.json'}) == 1


def test_a_folder_is_saved_again(folder: Path) -> None:
    other = backbone('t', long_distance='window')
    other.save_pretrained(folder)
    assert CrossFormer.from_pretrained(folder).settings == other.settings
    damaged = backbone('t')
    damaged.patch_embed.norm.weight.data[0] = torch.nan
    with pytest.raises(UserError, match=r'NaN or infinite values in patch_embed\.norm\.weight'):
        damaged.save_pretrained(folder)
    with pytest.raises(UserError, match='is a file, not a folder'):
        other.save_pretrained(folder / 'config.json')
    assert CrossFormer.from_pretrained(folder).settings == other.settings


def test_a_name_means_the_file_in_the_cache(
    released: Path, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UserError, match=r'of CrossFormer-T from .*convert FILE --to-cache') as error:
        CrossFormer.from_pretrained('t')
    assert PAGE in str(error.value)
    with pytest.raises(UserError, match=r'of CrossFormer\+\+-B from'):
        CrossFormer.from_pretrained('pp_b')
    assert put(released, '--to-cache') == 0
    assert "name      t: --pretrained t, CrossFormer.from_pretrained('t')" in capsys.readouterr().out
    check = ['sha256sum', '--check', 't.safetensors.sha256']
    assert subprocess.run(check, cwd=home, capture_output=True, check=True).stdout == b't.safetensors: OK\n'
    for model in (
        CrossFormer.from_pretrained('t'),
        CrossFormer('t', pretrained='t').eval(),
        CrossFormer('t', init_cfg=dict(type='Pretrained', checkpoint='t')).eval(),
    ):
        model.init_weights()
        assert same_outputs(model, backbone('t'))
    install_reader()
    with pytest.raises(UserError, match=r's: .* does not exist, and is on no server'):
        CrossFormer('t', pretrained='s').init_weights()


def test_files_and_folders_win_over_names(released: Path, folder: Path, tmp_path: Path) -> None:
    assert put(released, '--to-cache') == 0
    Path('t').mkdir()
    assert same_outputs(CrossFormer.from_pretrained('t'), backbone('t')), 'a folder without weights'
    Path('t').rmdir()
    folder.rename('t')
    assert CrossFormer.from_pretrained('t').settings == backbone('t', **LARGE).settings
    Path('t').rename('elsewhere')
    Path('t').write_bytes(b'no checkpoint')
    for load in (CrossFormer.from_pretrained, lambda name: CrossFormer('t', pretrained=name).init_weights()):
        with pytest.raises(UserError, match='t: is not a checkpoint'):
            load('t')


@pytest.mark.parametrize(
    ('name', 'message'),
    [
        ('T', r'T: no such file, folder or name \(did you mean t\?\); the names are t, s, b, l, pp_s'),
        ('pp-h', r'did you mean pp_h\?'),
        ('small', r'small: no such file, folder or name'),
        ('gone.pth', r'gone\.pth: cannot be read \(No such file'),
        ('a/t', 'a/t: cannot be read'),
        ('x' * 300, 'x: no such file, folder or name'),
        ('https://host/t', 'is an address'),
        (None, 'None: is not the name of a file'),
    ],
)
def test_unknown_names(name: str, message: str) -> None:
    for load in (CrossFormer.from_pretrained, lambda name: CrossFormer('t', pretrained=name).init_weights()):
        if name is not None or load == CrossFormer.from_pretrained:
            with pytest.raises(UserError, match=message):
                load(name)


def test_a_changed_file_in_the_cache_is_not_used(
    released: Path, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert put(released, '--to-cache') == 0
    weights, noted = home / 't.safetensors', home / 't.safetensors.sha256'
    content = weights.read_bytes()
    weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(UserError, match=r't\.safetensors: does not have the SHA-256 in .*--overwrite'):
        CrossFormer.from_pretrained('t')
    assert put(released, '--to-cache') == 1
    assert 't.safetensors: exists' in capsys.readouterr().err
    weights.unlink()
    assert put(released, '--to-cache') == 1
    assert 't.safetensors.sha256: exists' in capsys.readouterr().err and not weights.exists()
    assert put(released, '--to-cache', '--overwrite') == 0
    CrossFormer.from_pretrained('t')
    noted.write_bytes(b'\xff')
    with pytest.raises(UserError, match=r'the SHA-256 in t\.safetensors\.sha256'):
        CrossFormer.from_pretrained('t')
    noted.unlink()
    with pytest.raises(UserError, match='does not have the SHA-256'):
        CrossFormer.from_pretrained('t')


def test_a_file_under_another_name_is_not_used(released: Path, home: Path) -> None:
    assert put(released, '--to-cache') == 0
    other = (home / 't.safetensors').rename(home / 'pp_s.safetensors')
    (home / 'pp_s.safetensors.sha256').write_text(f'{sha256_of(other)}  pp_s.safetensors\n')
    with pytest.raises(UserError, match="the file's arch is t, the model's pp_s"):
        CrossFormer.from_pretrained('pp_s')


def test_what_does_not_go_into_the_cache(
    released: Path, home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    detector = prefixed(backbone('t').state_dict(), 'backbone.') | {'bbox_head.weight': torch.ones(2)}
    save_old_toolbox(tmp_path / 'detector.pth', detector)
    torch.save(backbone({**TINY, 'embed_dims': 32}).state_dict(), tmp_path / 'other.pth')
    for words, message in [
        ([tmp_path / 'detector.pth', '--to-cache'], 'holds a detector, but the names are for ImageNet'),
        ([tmp_path / 'other.pth', '--to-cache'], 'its arch, dict(embed_dims=32'),
        ([released, 'out.pth', '--to-cache'], '--to-cache goes without OUT'),
        ([released, '--to-cache', '--dry-run'], '--to-cache goes without OUT'),
        ([released], 'give OUT, or --to-cache'),
    ]:
        assert put(*words) == 1
        printed = capsys.readouterr()
        assert message in printed.err and printed.err.count('\n') == 1 and not printed.out
    assert not home.exists()
    home.write_text('a file')
    assert put(released, '--to-cache') == 1
    assert f'{home} is a file, not a folder' in capsys.readouterr().err


def test_what_trainings_start_from(released: Path, folder: Path, home: Path) -> None:
    assert put(released, '--to-cache') == 0
    assert backbone_file('t') == str(home / 't.safetensors')
    assert backbone_file(str(folder)) == str(folder / 'model.safetensors')
    with pytest.raises(UserError, match=r'--pretrained gone\.pth: no such file'):
        backbone_file('gone.pth')
    init_cfg = dict(type='Pretrained', checkpoint='t')
    cfg = Config(dict(model=dict(backbone=dict(type='CrossFormer', init_cfg=init_cfg))))
    assert open_weights(cfg).path == home / 't.safetensors'


def test_where_the_cache_is(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    assert cache_folder() == home
    monkeypatch.setenv('CROSSFORMER_HOME', '~/weights')
    assert cache_folder() == Path.home() / 'weights'
    monkeypatch.delenv('CROSSFORMER_HOME')
    monkeypatch.setenv('XDG_CACHE_HOME', '/caches')
    assert cache_folder() == Path('/caches/crossformer_mm')
    monkeypatch.delenv('XDG_CACHE_HOME')
    assert cache_folder() == Path.home() / '.cache' / 'crossformer_mm'


@pytest.mark.slow
def test_training_starts_from_a_name(
    narrow_config: Callable[[str], Config], coco_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()  # the tool is another process, in which arch t is the published one
    monkeypatch.setenv('CROSSFORMER_HOME', str(tmp_path / 'home'))
    start = CrossFormer('t')
    save_classifier(tmp_path / 'released.pth', classifier_state(start))
    cfg = narrow_config('retinanet_crossformer_s')
    cfg.model.backbone.update(arch='t', group_sizes=[14, 14, 7, 7], long_distance='window')
    cfg.model.neck.in_channels = list(start.out_channels)
    cfg.train_cfg.max_epochs = 1
    cfg.dump(tmp_path / 'narrow.py')
    words = [tmp_path / 'narrow.py', '--data-root', coco_root, '--work-dir', tmp_path / 'work']
    still = ['--no-val', '--cfg-options', 'optim_wrapper.optimizer.lr=0']
    command = [sys.executable, *map(str, [TRAIN, *words, '--pretrained', 't', *still])]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.count('\n')) == (1, 1)
    assert 't.safetensors does not exist, and is on no server' in done.stderr
    assert not (tmp_path / 'work').exists()
    assert put(tmp_path / 'released.pth', '--to-cache') == 0
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert f'CrossFormer from {tmp_path}/home/t.safetensors: ' in done.stdout
    trained = CrossFormer.from_pretrained(tmp_path / 'work' / 'epoch_1.pth')
    torch.testing.assert_close(trained.state_dict(), start.state_dict(), rtol=0, atol=0)
    assert trained.settings['group_sizes'] == (14, 14, 7, 7) and trained.long_distance == 'window'
