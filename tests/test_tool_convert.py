"""The command line of the converter."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from checkpoint_files import (
    NARROW,
    backbone,
    classifier_state,
    prefixed,
    save_classifier,
    save_old_toolbox,
)
from torch import Tensor

from crossformer_mm import CrossFormer
from crossformer_mm.checkpoint import load_backbone
from crossformer_mm.engine import cli
from crossformer_mm.engine.convert import conversion_parser, convert

TOOL = Path(__file__).parents[1] / 'tools' / 'convert_checkpoint.py'


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A released classification file."""
    return save_classifier(tmp_path / 'in.pth', classifier_state(backbone()))


def run(*words: object) -> int:
    return cli.run(conversion_parser(), convert, [str(word) for word in words])


def test_the_tool_converts_and_reports(source: Path) -> None:
    out = source.with_name('out.safetensors')
    command = [sys.executable, str(TOOL), str(source), str(out), '--half', '--hash-name']
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert 'arch      dict(embed_dims=32' in done.stdout and done.stdout.count('SHA-256') == 2
    (out,) = source.parent.glob('out-*.safetensors')
    assert str(out) in done.stdout
    load_backbone(CrossFormer(NARROW), out)


def test_a_dry_run_writes_nothing(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(source, source.with_name('out.pth'), '--dry-run') == 0
    assert 'classifier, converted to a backbone' in capsys.readouterr().out
    assert list(source.parent.iterdir()) == [source]


def test_existing_files_are_replaced_only_when_asked(
    source: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = source.with_name('out.pth')
    out.write_text('mine')
    assert run(source, out) == 1
    assert 'exists; choose another name or give --overwrite' in capsys.readouterr().err
    assert out.read_text() == 'mine'
    assert run(source, out, '--overwrite') == 0
    load_backbone(CrossFormer(NARROW), out)


def test_the_input_is_never_overwritten(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = source.read_bytes()
    source.with_name('link.pth').symlink_to(source)
    source.with_name('hard.pth').hardlink_to(source)
    for name in ('in.pth', 'link.pth', 'hard.pth', f'../{source.parent.name}/in.pth'):
        assert run(source, source.parent / name, '--overwrite') == 1
        assert 'is the input itself' in capsys.readouterr().err
    assert source.read_bytes() == content


def weights_with(value: float) -> dict[str, Tensor]:
    state = classifier_state(backbone())
    state['layers.1.blocks.0.attn.qkv.weight'][0, 0] = value
    return state


def swin() -> dict[str, Tensor]:
    names = ('patch_embed.proj.weight', 'layers.0.blocks.0.attn.relative_position_bias_table', 'norm.weight')
    return {name: torch.ones(2, 2) for name in names}


def resnet() -> dict[str, Tensor]:
    return {name: torch.ones(2, 2) for name in ('conv1.weight', 'layer1.0.conv1.weight', 'fc.weight')}


def bad_inputs(folder: Path) -> dict[str, tuple[Path, list[str], str]]:
    """File, options, and what the message says, by what is wrong."""
    good = save_classifier(folder / 'good.pth', classifier_state(backbone())).read_bytes()
    files = {
        'empty': b'',
        'text': b'weights go here\n',
        'truncated': good[: len(good) // 2],
        'cut at the end': good[:-10],
    }
    for name, content in files.items():
        (folder / f'{name}.pth').write_bytes(content)
    states = {'nan': weights_with(float('nan')), 'inf': weights_with(float('-inf'))}
    for name, state in (states | {'swin': swin(), 'resnet': resnet()}).items():
        save_classifier(folder / f'{name}.pth', state)
    incomplete = classifier_state(backbone())
    del incomplete['patch_embed.norm.weight']
    save_classifier(folder / 'incomplete.pth', incomplete)
    save_old_toolbox(folder / 'heads.pth', prefixed(backbone().state_dict(), 'neck.'))
    (folder / 'config.py').write_text("model = dict(type='CrossFormer', arch='s')\n")
    expected = {
        'empty': 'is empty',
        'text': 'web page or another text',
        'truncated': 'cut off or damaged',
        'cut at the end': 'cut off or damaged',
        'nan': 'NaN or infinite values in layers.1.blocks.0.attn.qkv.weight',
        'inf': 'NaN or infinite values in layers.1.blocks.0.attn.qkv.weight',
        'swin': 'it looks like Swin',
        'resnet': 'it looks like ResNet',
        'incomplete': 'holds no CrossFormer',
        'heads': 'holds no CrossFormer',
        'missing': 'No such file',
    }
    cases = {name: (folder / f'{name}.pth', [], message) for name, message in expected.items()}
    whole = folder / 'good.pth'
    return cases | {
        'no heads': (whole, ['--to', 'segmentor'], 'cannot become a segmentor'),
        'no config': (whole, ['--verify', 'nowhere.py'], 'nowhere.py'),
    }


def test_bad_input_is_one_line_and_no_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cases = bad_inputs(tmp_path)
    before = sorted(tmp_path.iterdir())
    for name, (source, options, message) in cases.items():
        assert run(source, tmp_path / 'out.pth', *options) == 1, name
        printed = capsys.readouterr()
        assert message in printed.err and printed.err.count('\n') == 1, (name, printed.err)
        assert printed.err.startswith('error: ') and not printed.out
        assert sorted(tmp_path.iterdir()) == before, name


@pytest.mark.parametrize(
    ('name', 'message'),
    [('out.bin', 'must end with .pth or .safetensors'), ('nowhere/out.pth', 'there is no folder')],
)
def test_bad_output_is_named_before_anything_is_read(
    tmp_path: Path, name: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tmp_path / 'never read.pth', tmp_path / name) == 1
    assert message in capsys.readouterr().err


def test_output_that_is_a_folder_is_named(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source.with_name('out.pth').mkdir()
    assert run(source, source.with_name('out.pth'), '--overwrite') == 1
    assert 'is a folder' in capsys.readouterr().err
