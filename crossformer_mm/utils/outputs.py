"""The rule for all outputs: inputs of the run, and files that this project did not write, are not replaced.

Each folder with outputs has a hidden list, ``.crossformer_mm``, of the files that this project wrote there,
with their sizes and times. A file that is not in the list, or has changed since, is the user's.
"""

import json
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from .errors import UserError
from .files import write_atomically

LIST = '.crossformer_mm'
_COARSEST = 2e9  # nanoseconds; some file systems and archives keep times only to two seconds


def check_place(
    option: str,
    place: str | Path,
    inputs: Iterable[str | Path],
    around: bool = True,
    inside: bool = True,
) -> None:
    """Check that a file or folder to write to is no input of the run, nor in or around one.

    Args:
        option: How the user specified it, for the message.
        place: The file or folder; it need not exist.
        inputs: Files, and folders of images or label maps. They are compared as files on disk, whatever the
            names and links by which they are given.
        around: Whether the place must not contain inputs either.
        inside: Whether the place must not be inside an input folder either.

    Raises:
        UserError: The place is none to write to.
    """
    real = Path(os.path.realpath(place))
    here, *above = (_identity(path) for path in (real, *real.parents))
    for given in inputs:
        places = _real_places(given) if inside else {Path(os.path.realpath(given)): False}
        for path, whole in places.items():
            if _identity(path) in ([here, *above] if whole else [here]):
                what = f'{path} contains the data' if whole or path.is_dir() else 'is an input of this run'
            elif around and here in map(_identity, path.parents):
                what = f'contains the data {path}'
            else:
                continue
            raise UserError(f'{option} {place}: {what}; choose another place')


def check_outputs(option: str, paths: Iterable[str | Path], inputs: Iterable[str | Path] = ()) -> None:
    """Check that files can be written without replacing any but earlier outputs.

    Args:
        option: How the user specified them, for the message.
        paths: The files.
        inputs: Files that the run reads, which are not replaced even if they are earlier outputs.

    Raises:
        UserError: One is an input or a folder, or exists and is not an unchanged output of this project.
    """
    read = {_identity(path) for path in inputs}
    lists: dict[Path, dict[str, list[tuple[int, int]]]] = {}
    for path in map(Path, paths):
        if not os.path.lexists(path):
            continue
        if path.parent not in lists:
            lists[path.parent] = _read_list(path.parent)
        if path.is_dir():
            what = 'is a folder'
        elif _identity(path) in read:
            what = 'is an input of this run'
        elif not _is_listed(path, lists[path.parent]):
            what = 'exists, and was not written by this project or has changed since'
        else:
            continue
        raise UserError(f'{option}: {path} {what}; move it, or choose another place')


def check_distinct(files: Mapping[str, Iterable[str | Path]]) -> None:
    """Check that the outputs of different options do not replace each other.

    Args:
        files: The files that each option writes.

    Raises:
        UserError: Two options write the same file.
    """
    options: dict[str, str] = {}
    for option, paths in files.items():
        for path in paths:
            first = options.setdefault(os.path.realpath(path), option)
            if first != option:
                raise UserError(f'{first} and {option} would both write {path}; give different places')


def is_output(path: Path) -> bool:
    """Whether a file was written by this project and has not changed since."""
    return path.is_file() and _is_listed(path, _read_list(path.parent))


def write_output(path: Path, save: Callable[[Path], None]) -> None:
    """Write a file that :func:`check_outputs` has allowed, atomically, and list it as an output.

    Args:
        path: The file; it is replaced if it exists, and missing folders are created.
        save: Called with the path to write to, which does not have the file's suffix.

    Raises:
        UserError: It cannot be written.
    """

    def save_and_list(part: Path) -> None:
        save(part)
        list_output(path, part)  # before it has its name: a process may be killed at any time

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f'{path.parent}: cannot be created ({error.strerror})') from error
    write_atomically(path, save_and_list, overwrite=True)


def list_output(path: Path, written: Path | None = None) -> None:
    """List a file as an output.

    Args:
        path: The file.
        written: Where it is until it gets its name.
    """
    status = (written or path).stat()
    line = json.dumps([path.name, status.st_size, status.st_mtime_ns])
    with suppress(PermissionError), (path.parent / LIST).open('a') as file:  # it may be another user's list
        file.write(f'\n{line}')  # not joined to a line that was cut off


def unique_names(names: Iterable[str]) -> list[str]:
    """Number names that are repeated: ``a``, ``a-2``, ``a-3``.

    Args:
        names: Names of files without suffix. Those that differ only in case are repetitions too, as in some
            file systems.

    Returns:
        A name for each, all different.
    """
    used: set[str] = set()
    counts: Counter[str] = Counter()
    chosen = []
    for name in names:
        unique = name
        while unique.casefold() in used:
            counts[name.casefold()] += 1
            unique = f'{name}-{counts[name.casefold()] + 1}'
        used.add(unique.casefold())
        chosen.append(unique)
    return chosen


def _read_list(folder: Path) -> dict[str, list[tuple[int, int]]]:
    """Sizes and times of what this project wrote to a folder, by the files' names."""
    written = defaultdict(list)
    with suppress(OSError):
        for line in (folder / LIST).read_text(errors='replace').splitlines():
            with suppress(ValueError, TypeError):  # a line that was cut off
                name, size, time = json.loads(line)
                written[name].append((size, time))
    return written


def _is_listed(path: Path, written: Mapping[str, Sequence[tuple[int, int]]]) -> bool:
    status = path.lstat()
    return any(
        status.st_size == size and abs(status.st_mtime_ns - time) <= _COARSEST
        for size, time in written.get(path.name, ())
    )


def _identity(path: str | Path) -> tuple[int, int] | str:
    """What tells a file or folder from others, whatever its names; the path of one that does not exist."""
    try:
        status = os.stat(path)  # noqa: PTH116 # Path objects take twice as long for many files
    except OSError:
        return os.path.realpath(path)
    return status.st_dev, status.st_ino


def _real_places(given: str | Path) -> dict[Path, bool]:
    """Where an input really is, and where links in it lead; True for folders whose whole content is input."""
    places: dict[Path, bool] = {}
    waiting = [os.path.realpath(given)]
    while waiting:
        place = Path(waiting.pop())
        if places.get(place):
            continue
        places[place] = not place.is_file()
        with suppress(OSError):  # a file, missing, or may not be listed
            for entry in os.scandir(place):
                if entry.is_symlink():
                    target = os.path.realpath(entry)
                    if entry.is_dir():
                        waiting.append(target)
                    else:
                        places.setdefault(Path(target).parent, False)
                elif entry.is_dir() and not entry.name.startswith('.'):
                    waiting.append(entry.path)
    return places
