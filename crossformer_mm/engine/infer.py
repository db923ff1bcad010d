"""``crossformer infer``: predict on image files, and write pictures and a JSON file."""

from __future__ import annotations

import argparse
import glob
import json
import os
import sys
from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
from rich.progress import Progress

from ..data.images import IGNORE_EXIF_HELP, NoImageError, read_image
from ..data.label_files import write_label_map
from ..deploy.model import OnnxModel
from ..deploy.predictions import Objects
from ..deploy.tiles import OVERLAP, TiledModel, check_tiles
from ..evaluation.class_pictures import save_classified
from ..evaluation.detection_pictures import drawn_objects, save_objects
from ..evaluation.records import best_classes, class_record, object_records, segment_records
from ..evaluation.segmentation_pictures import SegmentedImage, save_segments
from ..utils.errors import UserError, ran_out_of_memory
from ..utils.files import check_folder, files_in
from ..utils.outputs import check_outputs, check_place, unique_names, write_output
from ..utils.progress import progress_bar
from ..utils.text import printable, shorten
from .config_options import CONFIG_HELP, add_cfg_options

_FOLDERS = {'picture': 'pictures', 'label_map': 'label_maps'}
_RESULTS = 'results.json'
_LONGEST = 240  # bytes of a file's name, which may have 255


class Model(Protocol):
    """What predicts: an :class:`OnnxModel`, or :class:`crossformer_mm.engine.toolbox_model.ToolboxModel`."""

    task: str
    classes: list[str]
    palette: Sequence[Sequence[int]]
    """RGB of each class."""
    origin: dict[str, Any]
    """``config`` and ``checkpoint``, among others."""
    ignore_exif: bool

    def predict(self, images: Sequence[np.ndarray]) -> list[Objects | np.ndarray]:
        """Predict on a batch of images, BGR, each ``(H, W, 3)``."""


def inference_parser() -> argparse.ArgumentParser:
    """The options of the command."""
    parser = argparse.ArgumentParser(description='Predict on images: pictures, and the results as JSON.')
    parser.add_argument('images', nargs='+', help='files, folders, or patterns such as "photos/**/*.jpg"')
    parser.add_argument('--config', help=CONFIG_HELP)
    parser.add_argument('--checkpoint', help='the weights, which also contain the class names')
    parser.add_argument(
        '--onnx', metavar='FILE', help='run this exported file, without PyTorch, instead of a config'
    )
    parser.add_argument('--out', default='predictions', metavar='DIR', help='output folder (%(default)s)')
    parser.add_argument(
        '--score-thr',
        type=float,
        default=0.3,
        metavar='X',
        help='leave out objects with a lower score (%(default)s)',
    )
    parser.add_argument('--device', help='cpu, cuda, cuda:1 (default: a GPU, if there is one)')
    parser.add_argument(
        '--batch-size', type=int, default=1, metavar='N', help='images, or tiles, per batch (%(default)s)'
    )
    parser.add_argument(
        '--tiles',
        type=int,
        metavar='S',
        help='predict on images larger than S×S pixels in tiles of this size, each as an image of its own,'
        ' and merge the results: for small objects in large images. S should be the size of the images in'
        ' training, in pixels before they were resized',
    )
    parser.add_argument(
        '--overlap',
        type=float,
        metavar='X',
        help=f'with --tiles: overlap of neighbouring tiles as a share of their size, larger than the objects'
        f' ({OVERLAP:g})',
    )
    parser.add_argument('--ignore-exif', action='store_true', help=IGNORE_EXIF_HELP)
    parser.add_argument('--bf16', action='store_true', help='compute in bfloat16')
    add_cfg_options(parser)
    return parser


def infer(options: argparse.Namespace) -> int:
    """Predict on images, and write pictures and results.

    Args:
        options: The options parsed by :func:`inference_parser`.

    Returns:
        The exit status: 1 if a file was skipped.

    Raises:
        UserError: An option, the config or the checkpoint is invalid, or no file was found.
    """
    _check_options(options)
    files, empty = find_files(options.images, options.out)
    if not files:
        raise UserError(f'no files at {shorten(options.images)}; give images, folders or patterns')
    model = _open_model(options)
    if options.tiles is not None:
        model = TiledModel(
            model,
            options.tiles,
            _overlap(options),
            batch=options.batch_size,
            score_thr=options.score_thr,
        )
    output = _Output(options, model, files)
    try:
        for word, reason in empty.items():
            output.skip(word, reason)
        _predict_all(model, files, output, options)
    finally:  # also after Ctrl-C, with the results so far
        output.write()
    count = len(output.images)
    found = f'{count} image{"s" * (count != 1)}: results.json and pictures are in {output.folder}'
    print(printable(found))
    return int(bool(output.skipped))


def _check_options(options: argparse.Namespace) -> None:
    if not 0 <= options.score_thr <= 1:
        raise UserError(f'--score-thr {options.score_thr:g}: scores are between 0 and 1')
    if options.batch_size < 1:
        raise UserError(f'--batch-size {options.batch_size}: must be at least 1')
    if options.tiles is not None:
        check_tiles(options.tiles, _overlap(options))
    elif options.overlap is not None:
        raise UserError(f'--overlap {options.overlap:g}: has no effect without tiles; add --tiles S')
    check_folder('--out', options.out)
    if options.onnx is None:
        missing = [f'--{name}' for name in ('config', 'checkpoint') if getattr(options, name) is None]
        if missing:
            raise UserError(f'{" and ".join(missing)}: missing; or give an exported file: --onnx FILE')
        return
    for name in ('config', 'checkpoint', 'device', 'bf16', 'cfg_options'):
        if getattr(options, name):
            raise UserError(f'--{name.replace("_", "-")}: has no effect on an exported file; leave it out')


def _open_model(options: argparse.Namespace) -> Model:
    if options.onnx is None:
        from .toolbox_model import ToolboxModel  # which needs PyTorch

        return ToolboxModel(
            options.config,
            options.checkpoint,
            device=options.device,
            bf16=options.bf16,
            cfg_options=options.cfg_options,
            without_exif=options.ignore_exif,
        )
    model = OnnxModel(options.onnx)
    if model.task == 'features':
        raise UserError(f'--onnx {options.onnx}: is a backbone alone; export a complete model')
    return model


def _overlap(options: argparse.Namespace) -> float:
    return OVERLAP if options.overlap is None else options.overlap


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
    results = {Path(out, name).resolve() for name in (*_FOLDERS.values(), _RESULTS)}
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


def _predict_all(model: Model, files: Sequence[Path], output: _Output, options: argparse.Namespace) -> None:
    ignore_exif = options.ignore_exif or model.ignore_exif
    step = options.batch_size
    with progress_bar() as progress:
        task = progress.add_task('predict', total=len(files))
        if isinstance(model, TiledModel):
            step = 1  # image of one or more batches of tiles
            model.on_tile = _tile_counter(progress)
        for start in range(0, len(files), step):
            batch = files[start : start + step]
            _predict_batch(model, batch, output, ignore_exif)
            progress.advance(task, len(batch))


def _tile_counter(progress: Progress) -> Callable[[int, int], None]:
    """A second bar for the tiles of the present image, with the remaining time."""
    task = progress.add_task('tiles', visible=False)

    def count(done: int, total: int) -> None:
        if not done:
            progress.reset(task, total=total, visible=True)
        progress.update(task, completed=done)

    return count


def _predict_batch(model: Model, files: Sequence[Path], output: _Output, ignore_exif: bool) -> None:
    """Predict on files in one batch, or on each alone if the batch does not fit into memory."""
    read = []
    for file in files:
        try:
            read.append((file, read_image(file, ignore_exif)))
        except NoImageError as error:
            output.skip(file, str(error))
    done = 0
    try:
        predictions = model.predict([image for _, image in read])
        for (file, image), prediction in zip(read, predictions, strict=True):
            output.add(file, image, prediction)
            done += 1
        return
    except Exception as error:  # torch, onnxruntime, numpy and OpenCV raise different ones
        if not ran_out_of_memory(error):
            raise
    # Here, the error no longer keeps in memory what was computed.
    if len(read) == 1:
        output.skip(read[0][0], 'there is not enough memory to predict on it')
    else:
        for file, _ in read[done:]:
            _predict_batch(model, [file], output, ignore_exif)


class _Output:
    """Writes pictures and label maps, and collects the results for the JSON file.

    Args:
        options: The options of the command.
        model: The model.
        files: The images.

    Raises:
        UserError: An image, or a file that is not an earlier result, would be replaced.
    """

    def __init__(self, options: argparse.Namespace, model: Model, files: Sequence[Path]) -> None:
        self.folder = Path(options.out)
        self.score_thr = options.score_thr
        self.classes, self.colours = model.classes, model.palette
        self.segments = model.task == 'semantic segmentation'
        self.whole_images = model.task == 'classification'
        self.about = {'onnx': options.onnx} if options.onnx else {}
        self.about |= {name: model.origin[name] for name in ('config', 'checkpoint')}
        self.about['classes'] = self.classes
        if not self.segments and not self.whole_images:
            self.about['score_thr'] = self.score_thr
        self.images: list[dict[str, Any]] = []
        self.skipped: list[dict[str, str]] = []
        self.paths = {}
        kinds = ('picture', 'label_map') if self.segments else ('picture',)
        for file, name in zip(files, unique_names(map(_stem, files)), strict=True):
            self.paths[file] = {kind: f'{_FOLDERS[kind]}/{name}.png' for kind in kinds}
        self._create([self.folder / _FOLDERS[kind] for kind in kinds], files)

    def _create(self, folders: Sequence[Path], files: Sequence[Path]) -> None:
        """Create the folders, unless an image or a user's file would be replaced."""
        for folder in folders:
            check_place('--out', folder, files)
            check_folder('--out', folder)
        paths = [path for paths in self.paths.values() for path in paths.values()]
        check_outputs('--out', [self.folder / path for path in (*paths, _RESULTS)], files)
        try:
            for folder in folders:
                folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f'--out {self.folder}: cannot be written ({error.strerror})') from error

    def skip(self, file: str | Path, reason: str) -> None:
        """Record a file without a result."""
        self.skipped.append({'file': str(file), 'reason': reason})
        print(printable(f'skipped {file}: {reason}'), file=sys.stderr)

    def add(self, file: Path, image: np.ndarray, prediction: Objects | np.ndarray) -> None:
        """Write the prediction for an image, BGR ``(H, W, 3)``."""
        height, width = image.shape[:2]
        picture = cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
        paths = self.paths[file]
        drawn = self.folder / paths['picture']
        if self.segments:
            write_label_map(self.folder / paths['label_map'], prediction)
            found = {'segments': segment_records(prediction, self.classes)}
            save_segments(drawn, [SegmentedImage(picture, [prediction])], self.classes, self.colours)
        elif self.whole_images:
            found = class_record(*best_classes(prediction), self.classes)
            if not found['top']:
                self.skip(file, 'its scores are NaN: the weights are damaged, or numbers overflow')
                return
            print(printable(f'{file}: {found["name"]} {found["score"]:.2f}'))
            save_classified(drawn, picture, found)
        else:
            objects = object_records(prediction, self.classes, (height, width), self.score_thr)
            found = {'objects': objects}
            save_objects(drawn, [(picture, drawn_objects(objects))])
        self.images.append({'file': str(file), 'height': height, 'width': width, **paths, **found})

    def write(self) -> None:
        """Write ``results.json``."""
        write_output(self.folder / _RESULTS, self._save)

    def _save(self, path: Path) -> None:
        content = {**self.about, 'images': self.images, 'skipped': self.skipped}
        # bytes of file names that are not UTF-8 become JSON escapes
        with path.open('w', encoding='utf-8', errors='backslashreplace') as file:
            json.dump(content, file, indent=1, ensure_ascii=False, allow_nan=False)
            file.write('\n')


def _stem(file: Path) -> str:
    """A file's name without suffix, shortened so that a number and a suffix fit behind it."""
    encoded = os.fsencode(file.stem)
    return file.stem if len(encoded) <= _LONGEST else encoded[:_LONGEST].decode(errors='ignore')
