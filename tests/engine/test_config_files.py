"""This project's own configs: found by name, copied, and inherited without a clone."""

from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import CONFIGS
from mmengine.config import Config

from crossformer_mm.engine.config import config_folder, find_config, load_config, own_config
from crossformer_mm.engine.flops import build_model
from crossformer_mm.utils.errors import UserError
from crossformer_mm_command import main

NAMES = sorted(path.stem for path in CONFIGS.glob('*.py'))


def test_a_clone_has_its_own_configs() -> None:
    assert config_folder() == CONFIGS


@pytest.mark.parametrize('name', NAMES)
def test_a_config_is_found_by_its_name(name: str) -> None:
    assert find_config(name) == find_config(f'{name}.py') == own_config(name) == CONFIGS / f'{name}.py'


def test_a_file_comes_before_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    mine = Path(f'{NAMES[0]}.py')
    mine.touch()
    assert find_config(mine.name) == mine
    assert find_config(NAMES[0]) == CONFIGS / mine


@pytest.mark.parametrize(
    ('name', 'hint'),
    [
        ('mask_rcnn_crossformer_x', 'did you mean mask_rcnn_crossformer_'),
        ('configs/fpn_crossformer_s.py', r'did you mean fpn_crossformer_s\?$'),
        ('_base_/detection_runtime', '"crossformer configs" lists them'),
        ('../configs/fpn_crossformer_s', r'did you mean fpn_crossformer_s\?$'),
    ],
)
def test_an_unknown_config_is_one_line(
    name: str, hint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=f'^{name}: no such config file; {hint}') as refused:
        find_config(name)
    assert '\n' not in str(refused.value)


def test_the_list_has_every_config_and_its_title(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(['configs']) == 0
    lines = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert list(lines) == NAMES
    assert lines['mask_rcnn_crossformer_s'].startswith('Mask R-CNN with CrossFormer-S on COCO 2017')


def test_configs_that_are_being_edited_are_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr('crossformer_mm.engine.config._PACKAGE', tmp_path / 'crossformer_mm')
    for name, text in (('broken', 'model = dict('), ('plain', 'model = 1')):
        (tmp_path / 'configs').mkdir(exist_ok=True)
        (tmp_path / 'configs' / f'{name}.py').write_text(text)
    assert main(['configs']) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ['broken', 'plain']
    assert main(['configs', '--copy', 'broken']) == 1
    assert 'broken.py: cannot load this config: SyntaxError' in capsys.readouterr().err


@pytest.mark.parametrize('name', ['mask_rcnn_crossformer_pp_s', 'upernet_crossformer_t'])
def test_a_copy_says_the_same_without_bases(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(['configs', '--copy', name]) == 0
    assert capsys.readouterr().out.startswith(f'wrote {name}.py; ')
    copy = Path(f'{name}.py')
    assert '_base_' not in copy.read_text().replace('_base_batch', '')
    assert Config.fromfile(copy).to_dict() == Config.fromfile(CONFIGS / copy).to_dict()
    assert [*tmp_path.iterdir()] == [tmp_path / copy]


def test_a_copy_overwrites_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    mine = tmp_path / 'fpn_crossformer_s.py'
    mine.symlink_to('gone.py')
    assert main(['configs', '--copy', 'fpn_crossformer_s']) == 1
    assert 'fpn_crossformer_s.py: exists and was not changed; move it' in capsys.readouterr().err
    assert mine.is_symlink() and not mine.exists()


def test_a_copy_into_a_closed_folder(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir('/proc')
    assert main(['configs', '--copy', 'fpn_crossformer_s']) == 1
    assert 'error: fpn_crossformer_s.py: cannot be written (' in capsys.readouterr().err


def test_own_configs_inherit_from_the_path_that_is_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(['configs', '--path', 'fpn_crossformer_s']) == 0
    path = capsys.readouterr().out.rstrip('\n')
    Path('mine.py').write_text(f"_base_ = '{path}'\nmodel = dict(decode_head=dict(num_classes=7))\n")
    model = Config.fromfile('mine.py').model
    assert (model.backbone.arch, model.decode_head.num_classes) == ('s', 7)


def test_a_preprocessor_beside_the_model_belongs_to_it(
    tmp_path: Path, narrow_classifier: Callable[[str], Config]
) -> None:
    """MMEngine's Runner adds it to the model; an exported file would have no normalisation without it."""
    cfg = narrow_classifier('crossformer_s_in1k')
    cfg.data_preprocessor = {**cfg.model.pop('data_preprocessor'), 'mean': [1.0, 2.0, 3.0]}
    cfg.dump(tmp_path / 'beside.py')
    model = build_model(load_config(tmp_path / 'beside.py', ['data_preprocessor.std=(4.0,5.0,6.0)']))
    assert model.data_preprocessor.mean.flatten().tolist() == [1, 2, 3]
    assert model.data_preprocessor.std.flatten().tolist() == [4, 5, 6]


@pytest.mark.parametrize('option', ['--path', '--copy'])
@pytest.mark.parametrize('name', ['fpn_crossformer', ''])
def test_a_name_without_a_config(option: str, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(['configs', option, name]) == 1
    assert capsys.readouterr().err.startswith(f'error: {name}: no such config file; ')
