"""The command line of the converter."""

import subprocess
import sys
from pathlib import Path

import pytest
from checkpoint_files import (
    NARROW,
    backbone,
    classifier_state,
    save_classifier,
)

from crossformer_mm import CrossFormer
from crossformer_mm.checkpoint import load_backbone
from crossformer_mm.engine import cli
from crossformer_mm.engine.convert import conversion_parser, convert

TOOL = Path(__file__).parents[2] / 'tools' / 'convert_checkpoint.py'


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
    assert 'exists; choose another name or allow overwriting' in capsys.readouterr().err
    assert out.read_text() == 'mine'
    assert run(source, out, '--overwrite') == 0
    load_backbone(CrossFormer(NARROW), out)


def test_the_input_is_never_overwritten(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = source.read_bytes()
    source.with_name('link.pth').symlink_to(source)
    source.with_name('hard.pth').hardlink_to(source)
    for name in ('in.pth', 'link.pth', 'hard.pth', f'../{source.parent.name}/in.pth'):
        assert run(source, source.parent / name, '--overwrite') == 1
        assert 'is an input of this run' in capsys.readouterr().err
    assert source.read_bytes() == content


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (['--to', 'segmentor'], 'cannot become a segmentor'),
        (['--verify', 'nowhere.py'], 'nowhere.py'),
    ],
)
def test_options_that_do_not_fit_are_one_line_and_no_file(
    source: Path, options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(source, source.with_name('out.pth'), *options) == 1
    printed = capsys.readouterr()
    assert message in printed.err and printed.err.count('\n') == 1
    assert printed.err.startswith('error: ') and not printed.out
    assert list(source.parent.iterdir()) == [source]


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
