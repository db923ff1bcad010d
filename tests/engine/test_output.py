"""Output that is closed, full, ASCII or read by ``head``; and text from files in it."""

import argparse
import errno
import logging
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from mmdet.structures import DetDataSample
from mmdet.visualization import DetLocalVisualizer
from mmengine.structures import InstanceData

from crossformer_mm.data.problems import Findings, Problem
from crossformer_mm.engine import cli
from crossformer_mm.engine.runner import _escape_record, escape_drawn_names
from crossformer_mm.utils.errors import UserError
from crossformer_mm.utils.text import printable, printable_lines, short_name
from crossformer_mm_command import READER_GONE

ROOT = Path(__file__).parents[2]
HOSTILE = [
    '$x_$',
    '_low',
    'a\nerror: forged',
    '\x1b[31mred',
    'right\u202eleft',
    'caf\udce9',
    '猫🐈',
    '',
    'long' * 500,
]
PRINTS = """
import sys
from crossformer_mm_command import safely
raise SystemExit(safely(lambda: print(*sys.argv[1:], sep='\\n') or 3))
"""


def prints(*words: str, **settings: object) -> subprocess.CompletedProcess:
    """A command that prints lines and returns 3."""
    environment = {**os.environ, 'PYTHONPATH': str(ROOT), **settings.pop('env', {})}
    command = [sys.executable, '-c', PRINTS, *words]
    return subprocess.run(command, env=environment, text=True, stderr=subprocess.PIPE, **settings)


def test_characters_that_the_terminal_lacks_are_escaped() -> None:
    done = prints('→ 猫', env={'PYTHONIOENCODING': 'ascii'}, stdout=subprocess.PIPE)
    assert (done.returncode, done.stdout, done.stderr) == (3, '\\u2192 \\u732b\n', '')


@pytest.mark.parametrize('lines', [1, 9000])
@pytest.mark.parametrize('unbuffered', ['', '1'])
def test_a_reader_that_ends_early_ends_the_command_quietly(lines: int, unbuffered: str) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = prints(*['a long line'] * lines, stdout=writer, env={'PYTHONUNBUFFERED': unbuffered})
    os.close(writer)
    assert (done.returncode, done.stderr) == (READER_GONE, '')


def test_output_to_a_full_disk_is_one_line() -> None:
    with Path('/dev/full').open('w') as full:
        done = prints('line', stdout=full)
    assert (done.returncode, done.stderr) == (
        1,
        'error: standard output: cannot be written (No space left on device)\n',
    )


def test_closed_output_is_not_taken_by_another_file(tmp_path: Path) -> None:
    opens = f"open({str(tmp_path / 'file')!r}, 'w').fileno() < 3"
    program = PRINTS.replace("print(*sys.argv[1:], sep='\\n')", opens)
    command = f'exec "{sys.executable}" -c "$PROGRAM" >&- 2>&- <&-'
    environment = {**os.environ, 'PYTHONPATH': str(ROOT), 'PROGRAM': program}
    assert subprocess.run(['bash', '-c', command], env=environment).returncode == 3


def test_a_process_ends_with_its_parent() -> None:
    """Also if the parent has ended before."""
    path = ROOT / 'crossformer_mm' / 'utils' / 'processes.py'
    ends = f'import runpy, time; runpy.run_path({str(path)!r})["end_with_parent"]'
    child = f'{ends}(); print(flush=True); time.sleep(60)'
    start = f'subprocess.Popen([sys.executable, "-c", {child!r}])'
    parent = f'import subprocess, sys; child = {start}; print(child.pid); child.wait()'
    command = [sys.executable, '-u', '-c', parent]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        pid = int(''.join(process.stdout.readline() for _ in range(2)))
        process.kill()
        for _ in range(100):
            if not Path(f'/proc/{pid}').exists() or ' Z ' in Path(f'/proc/{pid}/stat').read_text():
                break
            time.sleep(0.1)
        else:
            pytest.fail('it still runs')
    assert subprocess.run([sys.executable, '-c', f'{ends}({pid})']).returncode == -9
    assert subprocess.run([sys.executable, '-c', f'{ends}({os.getppid()})']).returncode == 0


@pytest.mark.parametrize('name', HOSTILE)
def test_text_from_files_forges_no_line(name: str) -> None:
    assert printable(name).isprintable()
    assert printable_lines(f'{name}\nb'.replace('a\n', 'a')).count('\n') == 1
    assert len(short_name(name)) < 50
    message = str(UserError(f'{name}: is bad; do better'))
    assert message.isprintable() and len(message) < 3100 and message.endswith('do better')
    findings = Findings(5)
    findings.add(Problem('bad names', name * 10, remedy=name))
    lines = list(findings.lines())
    assert all(line.isprintable() and len(line) < 3000 for line in lines)


def test_a_toolbox_draws_names_that_would_be_formulas() -> None:
    """Matplotlib refuses to draw the first of them unless it is escaped."""
    visualizer = DetLocalVisualizer(name='escapes')
    visualizer.dataset_meta = {'classes': HOSTILE, 'palette': [(0, 0, 0)] * len(HOSTILE)}
    escape_drawn_names(visualizer)
    boxes = torch.tensor([[5.0, 5.0, 50.0, 50.0]] * len(HOSTILE))
    found = InstanceData(bboxes=boxes, labels=torch.arange(len(HOSTILE)), scores=torch.ones(len(HOSTILE)))
    visualizer.add_datasample(
        'image', np.full((64, 64, 3), 128, np.uint8), DetDataSample(pred_instances=found)
    )
    assert visualizer.get_image().std() > 5


@pytest.mark.parametrize(
    ('number', 'reason'),
    [
        (errno.ENOSPC, 'No space left on device); free some space'),
        (errno.EACCES, 'Permission denied)'),
    ],
)
def test_what_the_machine_refuses_is_one_line(
    number: int, reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(options: argparse.Namespace) -> None:
        raise OSError(number, os.strerror(number), 'a\nb')

    assert cli.run(argparse.ArgumentParser(), fail, []) == 1
    assert capsys.readouterr().err == f'error: a\\nb: cannot be written ({reason}\n'
    with pytest.raises(OSError):
        cli.run(argparse.ArgumentParser(), fail, ['--debug'])


def test_other_errors_of_files_are_bugs() -> None:
    with pytest.raises(FileNotFoundError):
        cli.run(argparse.ArgumentParser(), lambda options: Path('/nowhere').read_text(), [])


def test_records_of_the_log_are_escaped() -> None:
    """Also those of other packages, whose lines stay lines."""
    record = logging.LogRecord('mmengine', logging.INFO, '', 0, 'table:\n%s', ('\x1b[31mred',), None)
    assert _escape_record(record)
    assert record.getMessage() == 'table:\n\\x1b[31mred'
