"""The command ``crossformer``: its own output, and that it calls the functions that the tools call."""

import os
from pathlib import Path

import pytest

from crossformer_mm_command import COMMANDS, main

TOOLS = Path(__file__).parents[2] / 'tools'


@pytest.mark.parametrize('words', [[], ['-h'], ['--help']])
def test_help_has_a_line_for_each_command(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(maxsplit=1) for line in lines[2:]] == [[name, COMMANDS[name][0]] for name in COMMANDS]


@pytest.mark.parametrize('name', COMMANDS)
def test_help_of_a_command(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main([name, '--help'])
    assert end.value.code == 0
    assert capsys.readouterr().out.startswith(f'usage: crossformer {name} ')


@pytest.mark.parametrize(
    ('word', 'hint'),
    [
        ('trian', 'did you mean train?'),
        ('config', 'did you mean configs?'),
        ('zzz', 'did you mean train, test,'),
    ],
)
def test_an_unknown_command_is_one_line(word: str, hint: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([word, '--help']) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f'error: unknown command {word}; {hint}')


def test_a_command_runs_on_a_config_by_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(['flops', 'demo_mask_rcnn', '--shape', '64', '64']) == 0
    assert capsys.readouterr().out.startswith('demo_mask_rcnn, one image of 64×64 pixels')
    assert main(['flops', 'demo_mask_rnn']) == 1
    said = capsys.readouterr().err
    assert said.startswith('error: demo_mask_rnn: no such config file; did you mean demo_mask_rcnn')


@pytest.mark.parametrize('tool', sorted(TOOLS.glob('*.py')), ids=lambda path: path.stem)
def test_tools_can_be_run(tool: Path) -> None:
    assert tool.read_text().startswith('#!/usr/bin/env python3\n"""')
    assert os.access(tool, os.X_OK)
