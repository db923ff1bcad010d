"""The lock on a work folder."""

import errno
import fcntl
import os
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from crossformer_mm.utils.errors import UserError
from crossformer_mm.utils.locks import NAME, locked


def in_child(work: Callable[[], object]) -> int:
    """Start ``work`` in a forked process."""
    child = os.fork()
    if not child:
        try:
            work()
        finally:
            os._exit(0)
    return child


def hold(folder: Path) -> None:
    with locked(folder, '--work-dir'):
        if not os.fork():  # a worker process, which may outlive this one
            time.sleep(3)
            os._exit(0)
        (folder.parent / 'ready').touch()
        signal.alarm(60)  # if the test fails
        signal.pause()


def wait_until_ready(folder: Path, child: int) -> None:
    while not (folder.parent / 'ready').exists():
        assert os.waitpid(child, os.WNOHANG) == (0, 0)
        time.sleep(0.01)


def no_locks(*args: object) -> None:
    raise OSError(errno.ENOLCK, 'No locks available')


@pytest.mark.parametrize('has_locks', [True, False])
def test_a_folder_is_locked_until_its_process_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_locks: bool
) -> None:
    if not has_locks:
        monkeypatch.setattr(fcntl, 'lockf', no_locks)
    folder = tmp_path / 'new/run'
    child = in_child(lambda: hold(folder))
    wait_until_ready(folder, child)
    owner = rf'process {child} on {socket.gethostname()} since 2\d\d\d-\d\d-\d\d \d\d:\d\d'
    message = f'^{folder} is in use by {owner}; use another --work-dir$'
    with pytest.raises(UserError, match=message), locked(folder, '--work-dir'):
        pass
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert (folder / NAME).exists()
    with locked(folder, '--work-dir'):
        assert (folder / NAME).read_text().startswith(f'process {os.getpid()} on ')
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize(
    'content',
    [
        b'',
        b'\xff\x1b[2J',
        b'process 1 on elsewhere since 2026-01-01 10:00',
        f'process {os.getpid()} on {socket.gethostname()} since 2026-01-01 10:00'.encode(),
    ],
    ids=['empty', 'garbage', 'of another machine', 'before a reboot'],
)
def test_a_file_that_nobody_holds_is_not_in_the_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes
) -> None:
    monkeypatch.setattr(fcntl, 'lockf', no_locks)
    (tmp_path / NAME).write_bytes(content)
    with locked(tmp_path, '--work-dir'):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_lock_file_that_was_removed_or_replaced_is_not_removed_again(tmp_path: Path) -> None:
    with locked(tmp_path, '--work-dir'):
        (tmp_path / NAME).unlink()
    with locked(tmp_path, '--work-dir'):
        (tmp_path / NAME).unlink()
        (tmp_path / NAME).write_text('of another run')
    assert (tmp_path / NAME).read_text() == 'of another run'
