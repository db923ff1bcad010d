"""Commands that make files from images: which images, where the results go, and what was skipped."""

import argparse
import glob
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np

from ..data.images import NoImageError, read_image
from ..utils.errors import UserError
from ..utils.files import check_folder, files_in
from ..utils.outputs import check_outputs, check_place, unique_names, write_output
from ..utils.text import printable, shorten

FOLDERS = {'picture': 'pictures', 'label_map': 'label_maps', 'map': 'maps', 'attention': 'attention'}
RESULTS = 'results.json'
_LONGEST = 240  # bytes of a file's name, which may have 255


class ImageResults:
    """The files that a command makes from images, and ``results.json``, in one folder.

    Args:
        folder: The folder, as ``--out`` gives it.
        files: The images.
        kinds: Which of :data:`FOLDERS` each image gets a file in.
        about: What ``results.json`` says first.

    Attributes:
        images: The record of each image that has results.
        skipped: The files without any, and the reason.

    Raises:
        UserError: An image, or a file that is not an earlier result, would be replaced.
    """

    def __init__(
        self, folder: str | Path, files: Sequence[Path], kinds: Sequence[str], about: Mapping[str, Any]
    ) -> None:
        self.folder, self.about = Path(folder), about
        self.images: list[dict[str, Any]] = []
        self.skipped: list[dict[str, str]] = []
        self.paths = {}
        for file, name in zip(files, unique_names(map(_stem, files)), strict=True):
            self.paths[file] = {kind: f'{FOLDERS[kind]}/{name}.png' for kind in kinds}
        self._create([self.folder / FOLDERS[kind] for kind in kinds], files)

    def _create(self, folders: Sequence[Path], files: Sequence[Path]) -> None:
        """Create the folders, unless an image or a user's file would be replaced."""
        for folder in folders:
            check_place('--out', folder, files)
            check_folder('--out', folder)
        paths = [path for paths in self.paths.values() for path in paths.values()]
        check_outputs('--out', [self.folder / path for path in (*paths, RESULTS)], files)
        try:
            for folder in folders:
                folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f'--out {self.folder}: cannot be written ({error.strerror})') from error

    def read(self, file: Path, ignore_exif: bool) -> np.ndarray | None:
        """Read an image, BGR ``(H, W, 3)``; skip the file, and return None, if it is none."""
        try:
            return read_image(file, ignore_exif)
        except NoImageError as error:
            self.skip(file, str(error))
            return None

    def skip(self, file: str | Path, reason: str) -> None:
        """Record a file without a result."""
        self.skipped.append({'file': str(file), 'reason': reason})
        print(printable(f'skipped {file}: {reason}'), file=sys.stderr)

    def add(self, file: Path, size: Sequence[int], found: Mapping[str, Any]) -> None:
        """Record the results of an image of a height and width, whose files are written."""
        height, width = size
        self.images.append({'file': str(file), 'height': height, 'width': width, **self.paths[file], **found})

    def write(self) -> None:
        """Write ``results.json``."""
        write_output(self.folder / RESULTS, self._save)

    def _save(self, path: Path) -> None:
        content = {**self.about, 'images': self.images, 'skipped': self.skipped}
        # bytes of file names that are not UTF-8 become JSON escapes
        with path.open('w', encoding='utf-8', errors='backslashreplace') as file:
            json.dump(content, file, indent=1, ensure_ascii=False, allow_nan=False)
            file.write('\n')


def check_image_options(options: argparse.Namespace) -> None:
    """Check ``--score-thr``, ``--batch-size`` and ``--out``.

    Raises:
        UserError: A number is out of range, or the folder cannot be written.
    """
    if not 0 <= options.score_thr <= 1:
        raise UserError(f'--score-thr {options.score_thr:g}: scores are between 0 and 1')
    if options.batch_size < 1:
        raise UserError(f'--batch-size {options.batch_size}: must be at least 1')
    check_folder('--out', options.out)


def run_on_images(
    words: Sequence[str],
    out: str | Path,
    open_results: Callable[[list[Path]], ImageResults],
    run: Callable[[list[Path], Any], None],
) -> int:
    """Run a command on the images that its arguments refer to.

    Args:
        words: The arguments, see :func:`find_files`.
        out: The output folder.
        open_results: Opens the results for these images, an :class:`ImageResults`.
        run: Makes the results, given the images and what ``open_results`` returned.

    Returns:
        The exit status: 1 if a file was skipped.

    Raises:
        UserError: No file was found, or one of the functions raised it.
    """
    files, empty = find_files(words, out)
    if not files:
        raise UserError(f'no files at {shorten(words)}; give images, folders or patterns')
    results = open_results(files)
    try:
        for word, reason in empty.items():
            results.skip(word, reason)
        run(files, results)
    finally:  # also after Ctrl-C, with the results so far
        results.write()
    count = len(results.images)
    found = f'{count} image{"s" * (count != 1)}: {RESULTS} and pictures are in {results.folder}'
    print(printable(found))
    return int(bool(results.skipped))


def find_files(words: Sequence[str], out: str | Path) -> tuple[list[Path], dict[str, str]]:
    """Find the files that command-line arguments refer to.

    Args:
        words: Files, folders with their subfolders, and glob patterns (``**`` for any depth), without hidden
            files and folders. An existing file is taken as it is, even with brackets and stars in its name.
        out: The output folder. What an earlier run wrote there is left out of folders and patterns with
            other files.

    Returns:
        The files in order, without repetitions; and the arguments without any file, with the reason.

    Raises:
        UserError: A folder cannot be listed.
    """
    results = {Path(out, name).resolve() for name in (*FOLDERS.values(), RESULTS)}
    files: dict[Path, Path] = {}
    empty = {}
    for word in words:
        try:
            found = [(path.resolve(), path) for path in _files_of(Path(word))]
            reason = 'no such file'
            if Path(word).exists():
                reason = 'the folder contains no files' if Path(word).is_dir() else 'not a regular file'
        except OSError as error:  # it may not be read, or its name is too long
            found, reason = [], error.strerror
        if not found:
            empty[word] = reason
        others = [(real, path) for real, path in found if not {real, real.parent} & results]
        for real, path in others or found:
            files.setdefault(real, path)
    return list(files.values()), empty


def _files_of(word: Path) -> list[Path]:
    if word.exists():
        return files_in(word) if word.is_dir() else [word] * word.is_file()
    if '**' not in word.parts:
        matches = map(Path, sorted(glob.glob(str(word))))  # noqa: PTH207, pathlib refuses absolute ones
        return [file for match in matches if match.exists() for file in _files_of(match)]
    depth = next(i for i, part in enumerate(word.parts) if glob.has_magic(part))
    top = Path(*word.parts[:depth])  # glob would follow links that loop
    return [file for file in files_in(top) if _fits(file.parts[depth:], word.parts[depth:])]


def _fits(parts: Sequence[str], pattern: Sequence[str]) -> bool:
    """Whether a pattern matches a path or a folder that it is in."""
    if not pattern:
        return True
    if pattern[0] == '**' and _fits(parts, pattern[1:]):
        return True
    if not parts or not fnmatchcase(parts[0], pattern[0]):
        return False
    return _fits(parts[1:], pattern if pattern[0] == '**' else pattern[1:])


def _stem(file: Path) -> str:
    """A file's name without suffix, shortened so that a number and a suffix fit behind it."""
    encoded = os.fsencode(file.stem)
    return file.stem if len(encoded) <= _LONGEST else encoded[:_LONGEST].decode(errors='ignore')
