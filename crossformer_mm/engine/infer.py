"""``crossformer infer``: predict on image files, and write pictures and a JSON file."""

from __future__ import annotations

import argparse
import glob
import json
import sys
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from mmengine.infer import BaseInferencer
from mmengine.structures import BaseDataElement

from ..data.images import NoImageError, read_image
from ..data.label_files import write_label_map
from ..evaluation.detection_pictures import predicted_objects, save_objects
from ..evaluation.records import label_array, object_records, segment_records
from ..evaluation.segmentation_pictures import SegmentedImage, save_segments
from ..utils.errors import UserError
from ..utils.files import check_folder, write_atomically
from ..utils.progress import progress_bar
from ..utils.text import printable
from .config import CONFIG_HELP, add_cfg_options
from .inferencer import is_segmentor, open_inferencer, predict

_THINNEST = 100  # ratio of sides; beyond it, resizing would leave less than one pixel


def inference_parser() -> argparse.ArgumentParser:
    """The options of the command."""
    parser = argparse.ArgumentParser(description='Predict on images: pictures, and the results as JSON.')
    parser.add_argument('images', nargs='+', help='files, folders, or patterns such as "photos/**/*.jpg"')
    parser.add_argument('--config', required=True, help=CONFIG_HELP)
    parser.add_argument('--checkpoint', required=True, help='the weights, which also contain the class names')
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
        '--batch-size', type=int, default=1, metavar='N', help='images per batch (%(default)s)'
    )
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
    files, empty = find_files(options.images)
    if not files:
        raise UserError(f'no files at {", ".join(options.images)}; give images, folders or patterns')
    inferencer = open_inferencer(
        options.config, options.checkpoint, options.device, options.bf16, options.cfg_options
    )
    output = _Output(options, inferencer)
    try:
        for word, reason in empty.items():
            output.skip(word, reason)
        _predict_all(inferencer, files, output, options.batch_size)
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
    check_folder('--out', options.out)


def find_files(words: Sequence[str]) -> tuple[list[Path], dict[Path, str]]:
    """Find the files that command-line arguments refer to.

    Args:
        words: Files, folders (hidden files and subfolders are left out) and glob patterns (``**`` for any
            depth). An existing file is taken as it is, even with brackets and stars in its name.

    Returns:
        The files in order, without repetitions; and the arguments without any file, with the reason.
    """
    files: dict[Path, Path] = {}
    empty = {}
    for word in words:
        found = _files_of(word)
        if not found:
            empty[Path(word)] = 'the folder contains no files' if Path(word).is_dir() else 'no such file'
        for path in found:
            files.setdefault(path.resolve(), path)
    return list(files.values()), empty


def _files_of(word: str) -> list[Path]:
    path = Path(word)
    if path.exists():
        return _files_in(path) if path.is_dir() else [path]
    matches = map(Path, sorted(glob.glob(word, recursive=True)))  # noqa: PTH207, pathlib refuses absolute ones
    return [file for match in matches for file in (_files_in(match) if match.is_dir() else [match])]


def _files_in(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith('.'))


def _predict_all(inferencer: BaseInferencer, files: Sequence[Path], output: _Output, batch_size: int) -> None:
    names = name_outputs(files, output.folder / 'pictures')
    todo = list(zip(files, names, strict=True))
    with progress_bar() as progress:
        task = progress.add_task('predict', total=len(todo))
        for start in range(0, len(todo), batch_size):
            batch = todo[start : start + batch_size]
            read = []
            for file, name in batch:
                try:
                    read.append((file, name, read_image(file)))
                except NoImageError as error:
                    output.skip(file, str(error))
            samples = predict(inferencer, [widen(image) for _, _, image in read])
            for (file, name, image), sample in zip(read, samples, strict=True):
                output.add(file, name, image, sample)
            progress.advance(task, len(batch))


def name_outputs(files: Iterable[Path], folder: Path) -> list[str]:
    """Choose names for the outputs of each file, so that none overwrites another or an input.

    Args:
        files: The images.
        folder: The folder for the outputs, which are PNG files.

    Returns:
        The names without suffix: the files' stems, numbered if repeated (``a``, ``a-2``, ``a-3``).
    """
    files = list(files)
    inputs = {path.resolve() for path in files}
    names: dict[str, str] = {}  # keys in lower case, since some file systems ignore case
    for path in files:
        name, count = path.stem, 1
        while name.casefold() in names or (folder / f'{name}.png').resolve() in inputs:
            count += 1
            name = f'{path.stem}-{count}'
        names[name.casefold()] = name
    return list(names.values())


def widen(image: np.ndarray) -> np.ndarray:
    """Repeat the last row or column of a very thin image, which would otherwise be resized to zero pixels.

    Args:
        image: ``(H, W, 3)``.

    Returns:
        The image, or a wider one that contains it at the top left.
    """
    height, width = image.shape[:2]
    least = -(-max(height, width) // _THINNEST)
    below, right = max(least - height, 0), max(least - width, 0)
    return cv2.copyMakeBorder(image, 0, below, 0, right, cv2.BORDER_REPLICATE)


class _Output:
    """Writes pictures and label maps, and collects the results for the JSON file."""

    def __init__(self, options: argparse.Namespace, inferencer: BaseInferencer) -> None:
        self.folder = Path(options.out)
        self.score_thr = options.score_thr
        self.classes = list(inferencer.model.dataset_meta['classes'])
        self.colours = inferencer.model.dataset_meta['palette']
        self.segments = is_segmentor(inferencer)
        self.about = {'config': options.config, 'checkpoint': options.checkpoint, 'classes': self.classes}
        if not self.segments:
            self.about['score_thr'] = self.score_thr
        self.images: list[dict[str, Any]] = []
        self.skipped: list[dict[str, str]] = []
        try:
            for name in ('pictures', 'label_maps') if self.segments else ('pictures',):
                (self.folder / name).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f'--out {self.folder}: cannot be written ({error.strerror})') from error

    def skip(self, file: Path, reason: str) -> None:
        """Record a file without a result."""
        self.skipped.append({'file': str(file), 'reason': reason})
        print(printable(f'skipped {file}: {reason}'), file=sys.stderr)

    def add(self, file: Path, name: str, image: np.ndarray, sample: BaseDataElement) -> None:
        """Write the predictions for an image, BGR ``(H, W, 3)``."""
        height, width = image.shape[:2]
        picture = cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
        paths = {'picture': f'pictures/{name}.png'}
        if self.segments:
            labels = label_array(sample.pred_sem_seg.data)[:height, :width]
            paths['label_map'] = f'label_maps/{name}.png'
            write_label_map(self.folder / paths['label_map'], labels)
            found = {'segments': segment_records(labels, self.classes)}
            segmented = SegmentedImage(picture, [labels])
            draw = partial(save_segments, images=[segmented], classes=self.classes, colours=self.colours)
        else:
            objects = object_records(sample, self.classes, (height, width), self.score_thr)
            found = {'objects': objects}
            draw = partial(save_objects, images=[(picture, predicted_objects(objects))])
        draw(self.folder / paths['picture'])
        self.images.append({'file': str(file), 'height': height, 'width': width, **paths, **found})

    def write(self) -> None:
        """Write ``results.json``."""
        content = {**self.about, 'images': self.images, 'skipped': self.skipped}
        text = json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False)
        # bytes of file names that are not UTF-8 become JSON escapes
        encoded = f'{text}\n'.encode(errors='backslashreplace')
        write_atomically(self.folder / 'results.json', lambda part: part.write_bytes(encoded), overwrite=True)
