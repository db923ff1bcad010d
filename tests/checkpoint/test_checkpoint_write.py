"""Atomic writes: files are complete or absent when a writer is killed; large files need little memory."""

import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from checkpoint_files import NARROW, prefixed

from crossformer_mm import CrossFormer
from crossformer_mm.checkpoint import read_checkpoint
from crossformer_mm.checkpoint.convert import Conversion, save_conversion
from crossformer_mm.utils.errors import UserError
from crossformer_mm.utils.files import write_atomically

STATE = {f'layer{i}.weight': torch.full((50_000,), float(i)) for i in range(5)}
CONVERSION = Conversion(to='backbone', state=STATE, meta={'crossformer_mm': {}}, report=[])
SUFFIXES = ['.pth', '.safetensors']


def write(out: Path, **options: bool) -> Path:
    """Write as the converter does."""
    return write_atomically(out, lambda part: save_conversion(part, out.suffix, CONVERSION), **options)


def in_child(work: Callable[[], object]) -> int:
    """Run ``work`` in a forked process; returns its exit status in the notation of ``subprocess``."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            work()
            status = 0
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def assert_whole(path: Path) -> None:
    read = read_checkpoint(path)['state_dict']
    assert all(torch.equal(read[name], tensor) for name, tensor in STATE.items())


def die_at(step: int, folder: Path) -> None:
    """Kill this process at its ``step``-th call that opens, renames or changes something in ``folder``."""
    left = step

    def hook(event: str, arguments: tuple) -> None:
        nonlocal left
        if event in ('open', 'os.rename', 'os.remove', 'os.chmod') and str(folder) in map(
            os.path.dirname, map(str, arguments[:2])
        ):
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


@pytest.mark.parametrize('suffix', SUFFIXES)
@pytest.mark.parametrize('exists', [False, True])
def test_killed_at_any_step_leaves_the_old_file_or_the_new(tmp_path: Path, suffix: str, exists: bool) -> None:
    out = tmp_path / f'out{suffix}'
    killed = 0
    for step in range(1, 50):
        out.unlink(missing_ok=True)
        if exists:
            out.write_text('the old file')

        def work(step: int = step) -> None:
            die_at(step, tmp_path)
            write(out, overwrite=True)

        if in_child(work) == 0:
            break
        killed += 1
        if out.exists() and not (exists and out.read_bytes() == b'the old file'):
            assert_whole(out)
        else:
            assert out.exists() == exists
    assert killed >= 5  # create, fill, restrict, flush, rename
    assert_whole(out)


@pytest.mark.parametrize('suffix', SUFFIXES)
@pytest.mark.parametrize('share', [0, 0.01, 0.5, 0.999])
@pytest.mark.parametrize('is_killed', [True, False])
def test_a_write_that_ends_early_leaves_nothing_under_the_name(
    tmp_path: Path, suffix: str, share: float, is_killed: bool
) -> None:
    """The kernel kills the process at a given byte, or refuses to write more, as on a full disk."""
    size = write(tmp_path / f'complete{suffix}').stat().st_size
    out = tmp_path / f'out{suffix}'

    def work() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL if is_killed else signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(share * size), resource.RLIM_INFINITY))
        with pytest.raises(UserError, match=r'out\.\w+: cannot be written .*; free some space'):
            write(out)
        assert [path.name for path in tmp_path.iterdir()] == [f'complete{suffix}']

    assert in_child(work) == (-signal.SIGXFSZ if is_killed else 0)
    assert not out.exists()
    write(out)
    assert_whole(out)


def test_folder_that_cannot_be_written_is_named() -> None:
    with pytest.raises(UserError, match='cannot be written'):
        write(Path('/proc/out.pth'))


def test_file_has_the_permissions_of_a_new_file(tmp_path: Path) -> None:
    (tmp_path / 'plain').touch()
    for suffix in SUFFIXES:
        written = write(tmp_path / f'out{suffix}')
        assert written.stat().st_mode == (tmp_path / 'plain').stat().st_mode


MEASURE = """
import sys
from pathlib import Path
import torch
from crossformer_mm.checkpoint.convert import convert_checkpoint

def peak():  # not ru_maxrss, which counts the parent's memory before exec
    status = Path('/proc/self/status').read_text()
    return 1024 * int(status.partition('VmHWM:')[2].split()[0])

torch.set_num_threads(1)
before = peak()
convert_checkpoint(sys.argv[1], sys.argv[2])
print(before, peak())
"""


def detector_with_optimizer(path: Path, head: int) -> int:
    """Write a detector with ``head`` parameters in its head and AdamW's moments; returns the file's size."""
    state = prefixed(CrossFormer(NARROW).state_dict(), 'backbone.')
    state |= {f'roi_head.fc{i}.weight': torch.zeros(head // 10) for i in range(10)}
    moments = {
        i: {'step': torch.tensor(9.0), 'exp_avg': t.clone(), 'exp_avg_sq': t.clone()}
        for i, t in enumerate(state.values())
    }
    optimizer = {'state': moments, 'param_groups': [{'lr': 1e-4, 'params': list(moments)}]}
    torch.save({'meta': {'epoch': 12}, 'state_dict': state, 'optimizer': optimizer}, path)
    return path.stat().st_size


def memory_of_converting(source: Path, out: Path) -> tuple[int, int]:
    """Convert in a separate process; returns its peak memory before and after, in bytes."""
    command = [sys.executable, '-c', MEASURE, str(source), str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    before, after = map(int, done.stdout.split()[-2:])
    return before, after


@pytest.mark.slow
def test_what_is_dropped_takes_no_memory(tmp_path: Path) -> None:
    size = detector_with_optimizer(tmp_path / 'in.pth', head=10_000_000)
    before, after = memory_of_converting(tmp_path / 'in.pth', tmp_path / 'out.pth')
    assert size > 120e6
    assert after - before < 0.7 * size  # a third is weights, the rest their moments
