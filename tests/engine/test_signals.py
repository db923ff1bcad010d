"""Ctrl-C and SIGTERM end a command with one line, wherever they come."""

import argparse
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yapf.yapflib.yapf_api
from mmengine.config import Config
from mmengine.logging import MessageHub

from crossformer_mm.engine import cli
from crossformer_mm.utils.errors import UserError

TOOLS = Path(__file__).parents[2] / 'tools'
ENDS = [(signal.SIGINT, 130, 'interrupted'), (signal.SIGTERM, 143, 'terminated')]


def status_of(main: Callable[[], object]) -> int:
    return cli.run(argparse.ArgumentParser(), lambda _: main(), [])


class Sent:
    """A value during whose copy a signal comes."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.copies = 0

    def __deepcopy__(self, memo: dict) -> str:
        self.copies += 1
        os.kill(os.getpid(), self.number)
        return 'copied'


@pytest.mark.parametrize(('number', 'status', 'word'), ENDS)
def test_a_signal_while_a_config_is_formatted(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], number: int, status: int, word: str
) -> None:
    """mmengine reports every error there as one of the config's syntax, with the whole config."""
    done = []
    format_code = yapf.yapflib.yapf_api.FormatCode

    def interrupted(*args: object, **kwargs: object) -> tuple[str, bool]:
        os.kill(os.getpid(), number)
        done.append(format_code(*args, **kwargs))
        return done[-1]

    def main() -> None:
        assert Config({'a': 1}).pretty_text == 'a = 1\n'
        time.sleep(10)
        done.append('after the signal')

    monkeypatch.setattr(yapf.yapflib.yapf_api, 'FormatCode', interrupted)
    assert status_of(main) == status
    assert capsys.readouterr().err == f'{word}\n'
    assert done == [('a = 1\n', True)] or done == [('a = 1\n', False)]


def test_a_signal_while_the_log_is_saved(capsys: pytest.CaptureFixture[str]) -> None:
    """mmengine catches every error there, and goes on."""
    value = Sent(signal.SIGTERM)

    def main() -> None:
        hub = MessageHub.get_instance('signals')
        hub.update_info('value', value)
        assert hub.state_dict()['runtime_info']['value'] == 'copied'
        time.sleep(10)
        value.copies += 1

    assert status_of(main) == 143
    assert capsys.readouterr().err == 'terminated\n'
    assert value.copies == 1


def test_a_signal_in_a_destructor(capfd: pytest.CaptureFixture[str]) -> None:
    """Python only prints the errors of destructors."""

    class Last:
        def __del__(self) -> None:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.1)

    def main() -> None:
        Last()
        time.sleep(10)

    assert status_of(main) == 130
    assert capfd.readouterr().err == 'interrupted\n'


def test_handlers_are_restored() -> None:
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGALRM)
    before = [signal.getsignal(number) for number in numbers]
    during: list = []
    assert status_of(lambda: during.extend(map(signal.getsignal, numbers))) == 0
    assert [signal.getsignal(number) for number in numbers] == before
    assert all(one != other for one, other in zip(during, before, strict=True))
    ignoring = signal.signal(signal.SIGINT, signal.SIG_IGN)  # as the shell does for jobs in the background
    assert status_of(lambda: os.kill(os.getpid(), signal.SIGINT)) == 0
    signal.signal(signal.SIGINT, ignoring)


@pytest.mark.parametrize(('number', 'status', 'word'), ENDS)
def test_a_signal_while_an_extension_module_is_initialised(
    capsys: pytest.CaptureFixture[str], number: int, status: int, word: str
) -> None:
    """pybind11 makes an ImportError of it, and the config that imports the module cannot be loaded."""

    def main() -> None:
        try:
            try:
                os.kill(os.getpid(), number)
                time.sleep(10)
            except KeyboardInterrupt as stop:
                raise ImportError('initialization failed') from stop
        except ImportError as error:
            raise UserError('cannot load this config') from error

    assert status_of(main) == status
    assert capsys.readouterr().err == f'{word}\n'


@pytest.mark.slow
def test_signals_at_random_times_of_the_start(coco_root: Path, tmp_path: Path) -> None:
    """During imports, too; only Python's own first 0.1 s are left out."""
    config = TOOLS.parent / 'configs' / 'mask_rcnn_crossformer_s.py'
    words = [sys.executable, TOOLS / 'train.py', config, '--data-root', coco_root, '--work-dir', tmp_path]
    settings = ['train_dataloader.num_workers=1', 'val_dataloader.num_workers=1']
    moments = random.Random(0)
    for i in range(16):
        number, status, word = ENDS[i % 2]
        process = subprocess.Popen(
            list(map(str, [*words, '--cfg-options', *settings])),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        time.sleep(moments.uniform(0.3, 12))
        process.send_signal(number)
        said = process.communicate(timeout=60)[1].splitlines()
        assert process.returncode == status, (i, said)
        assert said[-1].startswith(word) and not any('Error' in line for line in said), (i, said)
