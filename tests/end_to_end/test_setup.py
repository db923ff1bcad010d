"""The set-up: its checks before downloading, and how it resumes. Python and pip are replaced by fakes."""

import re
import shutil
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
REQUIREMENTS = sorted(path.name for path in (ROOT / 'requirements').glob('*.txt'))
COMMANDS = """
as awk basename bash c++ cat cp df dirname env flock grep gzip ld mkdir mktemp mv nproc rm sed sha256sum
sleep tar
"""
STEPS = ['torch', 'mmcv', 'toolboxes', 'project']

# Stand for mmcv's: they exit with 0 when compiled as they would be one by one.
SOURCES = {
    'pybind.cpp': 'int one(), two(), ten(); int main() { return one() != 1 || two() != 2 || ten() != 10; }',
    'an_std.cpp': 'namespace std { int any(float) { return 0; } }\nusing namespace std;\n',
    'ten.cpp': 'int any(double) { return 10; }\nint ten() { return any(0.5f); }\n',
    'cpu/one.cpp': '#define min 5\ninline int add() { return 1; }\nint one() { return add(); }\n',
    'cpu/two.cpp': 'inline int add() { int min = 2; return min; }\nint two() { return add(); }\n',
}

# Answers questions as this test's own Python does, makes virtual environments of copies of itself, and
# writes each installation's begin and end into pip.log instead of installing anything. What it does for a
# wheel of mmcv is in "compiled"; a wheel holds the version of torch that it was compiled with.
FAKE_PYTHON = f"""#!/usr/bin/env bash
shopt -s nullglob
venv=${{0%/bin/python}} last=${{@: -1}} folder=${{@: -2:1}}
case "$*" in
  --version) echo "Python 3.11.0" ;;
  "-m venv "*) mkdir -p "$3/bin" && cp "$0" "$3/bin/python" ;;
  "-m pip --version" | "-m pip uninstall "*) ;;
  "-m pip cache dir") echo "$PWD/../cache" ;;
  "-m pip download "*) cp "$PWD/../source.tar.gz" "$folder" ;;
  "-m pip wheel "*)
    echo "${{last##*/}}" >> compiled
    [[ $last == *==* ]] || c++ -w -o program "$last"/mmcv/ops/csrc/pytorch/{{,cpu/}}*.cpp || exit
    cp "$venv/torch" "$folder/mmcv.whl" ;;
  "-m pip "*)
    case "$*" in
      *" -e "*) step=project ;;
      *--only-binary*) step=mmcv ;;
      *test.txt*) step=toolboxes ;;
      *) step=torch && grep ^torch== "$last" > "$venv/torch" ;;
    esac
    if [[ $step == mmcv ]]; then
      for place in "$@"; do for file in "$place" "$place"/*.whl; do
        [[ $file != *.whl ]] || wheel=$file
      done; done
      [[ -n ${{wheel:-}} ]] || {{ echo "no such wheel"; exit 1; }}
    fi
    echo "begin $step" >> pip.log
    sleep "${{PIP_SECONDS:-0}}"
    [[ $step != "${{PIP_FAILS_AT:-}}" ]] || {{ echo "no network for $step"; exit 1; }}
    [[ $step != mmcv ]] || cp "$wheel" "$venv/mmcv"
    echo "end $step" >> pip.log ;;
  *torch.__version__*) cat "$venv/torch" ;;
  *"mmcv.ops.nms"*) [[ $(<"$venv/mmcv") == "$(<"$venv/torch")" ]] ;;
  *"import cv2, mmcv._ext"*) ;;
  *) exec {sys.executable} "$@" ;;
esac
"""


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """The files that the set-up needs, in a separate folder, and a PATH to run it with."""
    clone = tmp_path / 'clone'
    for name in ('tools', 'crossformer_mm'):
        (clone / name).mkdir(parents=True)
    for name in ('tools/setup.sh', 'tools/install_mmcv.sh', 'crossformer_mm/version.py'):
        shutil.copy(ROOT / name, clone / name)
    for name in ('setup.py', 'pyproject.toml', 'README.md'):
        shutil.copy(ROOT / name, clone / name)
    shutil.copytree(ROOT / 'requirements', clone / 'requirements')
    (tmp_path / 'bin').mkdir()
    for name in COMMANDS.split():
        (tmp_path / 'bin' / name).symlink_to(shutil.which(name))
    write_command(clone, 'python3', FAKE_PYTHON)
    write_sources(clone, SOURCES)
    return clone


def write_sources(clone: Path, sources: dict[str, str]) -> None:
    """Put mmcv's source package, of these files, where the fake pip downloads from."""
    folder = clone.parent / 'onedl_mmcv-2.3.6'
    for name, text in sources.items():
        file = folder / 'mmcv/ops/csrc/pytorch' / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    with tarfile.open(clone.parent / 'source.tar.gz', 'w:gz') as archive:
        archive.add(folder, folder.name)


def compiled(clone: Path) -> list[str]:
    """The sources (joined, or a requirement) that mmcv was compiled from; the record is cleared."""
    record = clone / 'compiled'
    lines = record.read_text().splitlines() if record.exists() else []
    record.unlink(missing_ok=True)
    return lines


def write_command(clone: Path, name: str, text: str) -> None:
    """Put a command of that name on the clone's PATH, replacing an existing one."""
    command = clone.parent / 'bin' / name
    command.unlink(missing_ok=True)
    command.write_text(text)
    command.chmod(0o755)


def start(clone: Path, **environment: str) -> subprocess.Popen:
    """Start the set-up in a separate session, with only the given environment."""
    return subprocess.Popen(
        [str(clone / 'tools' / 'setup.sh')],
        env={'PATH': str(clone.parent / 'bin'), **environment},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def set_up(clone: Path, **environment: str) -> tuple[int, str, str]:
    """Exit status, output and errors of one set-up."""
    process = start(clone, **environment)
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err


def installed(clone: Path) -> list[str]:
    """The lines of pip.log, which is then cleared."""
    log = clone / 'pip.log'
    lines = log.read_text().splitlines() if log.exists() else []
    log.unlink(missing_ok=True)
    return lines


def wait_for(clone: Path, line: str) -> None:
    """Wait until pip.log contains the line."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        if (clone / 'pip.log').exists() and line in (clone / 'pip.log').read_text().splitlines():
            return
        time.sleep(0.05)
    raise TimeoutError(f'{line!r} did not come')


def once(*steps: str) -> list[str]:
    """The content of pip.log after these steps."""
    return [f'{event} {step}' for step in steps for event in ('begin', 'end')]


OLD_PYTHON = '#!/usr/bin/env bash\n[[ $1 == --version ]] && echo "Python 3.8.18"\n'
NO_HEADERS = '#!/usr/bin/env bash\n[[ "$(cat)" != *Python.h* ]]\n'
FULL_DISK = '#!/usr/bin/env bash\necho header; echo /dev/vda 9999999 9999999 204800 99% /\n'


@pytest.mark.parametrize(
    ('command', 'text', 'complaint', 'remedy'),
    [
        ('python3', OLD_PYTHON, 'no Python 3.10 to 3.14 (python3 is Python 3.8.18)', 'in PYTHON'),
        ('python3', 'not a program', '(python3 is no Python)', 'apt-get install python3 '),
        ('c++', None, 'c++ does not compile C++17', 'install build-essential python3-dev'),
        ('c++', NO_HEADERS, 'c++ does not compile C++17', 'install build-essential python3-dev'),
        ('df', FULL_DISK, '0 GB free in', 'another disk'),
    ],
)
def test_missing_requirements_are_reported_before_any_download(
    clone: Path, command: str, text: str | None, complaint: str, remedy: str
) -> None:
    write_command(clone, command, text or '')
    if text is None:
        (clone.parent / 'bin' / command).unlink()
    status, out, err = set_up(clone)
    assert status == 1
    assert out == ''
    assert len(err.splitlines()) == 1
    assert complaint in err
    assert remedy in err
    assert installed(clone) == []
    assert not (clone / '.venv').exists()


def test_a_newer_python_on_the_path_is_found_when_python3_is_too_old(clone: Path) -> None:
    write_command(clone, 'python3', OLD_PYTHON)
    write_command(clone, 'python3.12', FAKE_PYTHON)
    assert set_up(clone)[0] == 0


def test_a_named_python_is_the_only_one_tried(clone: Path) -> None:
    status, _, err = set_up(clone, PYTHON='/nowhere/python')
    assert status == 1
    assert '/nowhere/python is no Python' in err


@pytest.mark.parametrize('wrong', [{'STACK': 'mmcv'}, {'TORCH': 'latest'}])
def test_unknown_values_are_refused(clone: Path, wrong: dict[str, str]) -> None:
    status, _, err = set_up(clone, **wrong)
    ((name, value),) = wrong.items()
    assert status == 1
    assert err.startswith(f'setup: {name}={value} is ')
    assert installed(clone) == []


def test_a_second_call_installs_nothing(clone: Path) -> None:
    status, out, _ = set_up(clone)
    assert status == 0
    assert re.fullmatch(r'setup: all done in \d+:\d\d', out.splitlines()[-1])
    assert installed(clone) == once(*STEPS)
    assert set_up(clone) == (0, '', '')
    assert installed(clone) == []


def test_a_changed_file_repeats_its_step_and_those_after_it(clone: Path) -> None:
    set_up(clone)
    installed(clone)
    for changed, again in {
        'requirements/build.txt': STEPS,
        'requirements/onedl.txt': STEPS[1:],
        'requirements/test.txt': STEPS[2:],
        'setup.py': STEPS[3:],
        'requirements/openmmlab.txt': [],
    }.items():
        with (clone / changed).open('a') as file:
            file.write('# changed\n')
        assert set_up(clone)[0] == 0
        assert installed(clone) == once(*again)


def test_a_failed_step_is_shown_and_is_where_the_next_call_goes_on(clone: Path) -> None:
    done: list[str] = []
    for step in STEPS:
        status, _, err = set_up(clone, PIP_FAILS_AT=step)
        assert status == 1
        assert 'failed; call again' in err.splitlines()[-1]
        assert installed(clone) == [*once(*done), f'begin {step}']
        done = [step]
    assert set_up(clone)[0] == 0
    assert installed(clone) == once('project')


def test_a_set_up_killed_and_called_again_waits_for_what_the_first_left_running(clone: Path) -> None:
    first = start(clone, PIP_SECONDS='1')
    wait_for(clone, 'begin mmcv')
    first.kill()
    first.wait()
    status, out, _ = set_up(clone)
    assert status == 0
    assert 'waiting for another set-up of .venv' in out
    assert installed(clone) == once('torch', 'mmcv', 'mmcv', 'toolboxes', 'project')


def test_a_half_made_virtual_environment_is_made_anew(clone: Path) -> None:
    (clone / '.venv' / 'bin').mkdir(parents=True)
    (clone / '.venv' / 'bin' / 'python').symlink_to('/nowhere/python')
    assert set_up(clone)[0] == 0
    assert installed(clone) == once(*STEPS)


def test_mmcv_compiles_as_one_file_that_computes_as_its_files_do(clone: Path) -> None:
    assert set_up(clone)[0] == 0
    assert compiled(clone) == ['source']
    assert subprocess.run([clone / 'program'], check=False).returncode == 0


def test_where_the_one_file_does_not_compile_the_files_are_compiled_one_by_one(clone: Path) -> None:
    write_sources(clone, {'cpu/three.cpp': 'int two() { return 3; }'})
    status, out, _ = set_up(clone)
    assert status == 0
    assert compiled(clone) == ['source', 'onedl-mmcv==2.3.6']
    assert 'setup: onedl-mmcv==2.3.6 does not work compiled as one file: compiling file by file' in out


def test_a_second_clone_takes_the_wheel_of_the_first_unless_its_torch_is_another(clone: Path) -> None:
    second = Path(shutil.copytree(clone, clone.parent / 'second'))
    set_up(clone)
    assert set_up(second)[0] == 0
    assert compiled(second) == []
    assert set_up(second, TORCH='2.12.0')[0] == 0
    assert compiled(second) == ['source']
    assert len(list(clone.parent.glob('cache/mmcv/*/*.whl'))) == 2


def test_a_wheel_where_the_user_says_is_taken_if_it_works_with_this_torch(clone: Path) -> None:
    links = clone.parent / 'links'
    links.mkdir()
    (links / 'mmcv.whl').write_text('torch==2.12.0\n')
    assert set_up(clone, TORCH='2.12.0', MMCV_FIND_LINKS=str(links))[0] == 0
    assert compiled(clone) == []
    status, out, _ = set_up(clone, TORCH='2.13.0', MMCV_FIND_LINKS=str(links))
    assert status == 0
    assert f'setup: no wheel of onedl-mmcv==2.3.6 in {links} works with this torch: compiling one' in out
    assert compiled(clone) == ['source']


def test_another_torch_stays_until_one_is_named_again(clone: Path) -> None:
    set_up(clone)
    pinned = (clone / '.venv/torch').read_text()
    set_up(clone, TORCH='2.12.0', PIP_FAILS_AT='torch')
    installed(clone)
    set_up(clone)
    assert (clone / '.venv/torch').read_text() == pinned
    set_up(clone, TORCH='2.12.0')
    installed(clone)
    assert set_up(clone) == (0, '', '')
    assert (clone / '.venv/torch').read_text() == 'torch==2.12.0\n'


def requirements(name: str) -> list[str]:
    """The requirements of a file, without its comments."""
    lines = (ROOT / 'requirements' / name).read_text().splitlines()
    return [line.split('#')[0].strip() for line in lines if line.split('#')[0].strip()]


def test_every_requirement_is_pinned_and_stands_in_one_file_only() -> None:
    pins: dict[str, str] = {}
    for name in REQUIREMENTS:
        for line in requirements(name):
            distribution, version, marker = re.fullmatch(r'([\w-]+)==([\w.]+)(;.*)?', line).groups()
            assert pins.setdefault(distribution, name) == name
            assert version
            assert marker is None or 'python_version' in marker
    assert pins['torch'] == 'build.txt'
    assert pins['onedl-mmcv'] == 'onedl.txt'
    assert pins['mmcv'] == 'openmmlab.txt'


def test_the_project_asks_for_neither_family_unless_an_extra_is_named(clone: Path) -> None:
    subprocess.run([sys.executable, 'setup.py', '-q', 'egg_info'], cwd=clone, check=True, capture_output=True)
    always, *extras = (clone / 'crossformer_mm.egg-info' / 'requires.txt').read_text().split('\n[')
    assert 'torch>=' in always
    assert not re.search(r'(?m)^(onedl-)?mm', always)
    families = {extra.partition(']')[0]: re.findall(r'(?m)^[\w-]+', extra)[1:] for extra in extras}
    assert 'onedl-mmcv' in families['onedl']
    assert 'mmcv' in families['openmmlab']
    assert not {name for name in families['openmmlab'] if name.startswith('onedl')}
