"""``tools/infer.py``: predict on files, write pictures and one JSON file."""

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from mmengine.infer import BaseInferencer
from mmengine.structures import BaseDataElement

from ..data.image_files import NoImageError, find_files, name_outputs, read_image, widen
from ..data.label_maps import write_label_map
from ..evaluation import drawing
from ..evaluation import records as results
from ..evaluation.segments import SegmentedImage, save_pairs
from ..utils.errors import UserError
from ..utils.files import check_folder, write_atomically
from ..utils.progress import progress_bar
from .config import CONFIG_HELP
from .inferencer import is_segmentor, open_inferencer, predict

JSON, PICTURES, LABEL_MAPS = 'results.json', 'pictures', 'label_maps'


def inference_parser() -> argparse.ArgumentParser:
    """The options of ``tools/infer.py``."""
    parser = argparse.ArgumentParser(description='Predict on images: pictures, and the results as JSON.')
    parser.add_argument('images', nargs='+', help='files, folders, or patterns such as "photos/**/*.jpg"')
    parser.add_argument('--config', required=True, help=CONFIG_HELP)
    parser.add_argument('--checkpoint', required=True, help='the weights; class names come from them')
    parser.add_argument('--out', default='predictions', metavar='DIR', help='where to write (%(default)s)')
    parser.add_argument(
        '--score-thr', type=float, default=0.3, metavar='X', help='leave out objects below (%(default)s)'
    )
    parser.add_argument('--device', help='cpu, cuda, cuda:1 (a GPU if there is one)')
    parser.add_argument('--batch-size', type=int, default=1, metavar='N', help='images at once (%(default)s)')
    parser.add_argument('--bf16', action='store_true', help='compute in bfloat16')
    parser.add_argument(
        '--cfg-options', nargs='+', default=[], metavar='KEY=VALUE', help='settings to change in the config'
    )
    return parser


@dataclass
class Results:
    """What is known so far, written whole to the JSON file."""

    folder: Path
    about: dict[str, Any]
    images: list[dict[str, Any]] = field(default_factory=list)
    skipped: list[dict[str, str]] = field(default_factory=list)

    def skip(self, file: Path, reason: str) -> None:
        """Name a file that gives no result."""
        self.skipped.append({'file': str(file), 'reason': reason})
        print(f'skipped {file}: {reason}', file=sys.stderr)

    def write(self) -> None:
        """Write ``results.json``."""
        content = {**self.about, 'images': self.images, 'skipped': self.skipped}
        text = json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False)

        def save(part: Path) -> None:
            # the bytes of a file's name that are not UTF-8 become JSON's escapes
            part.write_bytes(f'{text}\n'.encode(errors='backslashreplace'))

        write_atomically(self.folder / JSON, save, overwrite=True)


def infer(options: argparse.Namespace) -> int:
    """Predict.

    Args:
        options: What :func:`inference_parser` parsed.

    Returns:
        The exit status: 1 if a file was skipped, all others being done.

    Raises:
        UserError: An option, the config or the checkpoint does not work, or there is no file at all.
    """
    _check_options(options)
    files, empty = find_files(options.images)
    if not files:
        raise UserError(f'no files at {", ".join(options.images)}; give images, folders or patterns')
    inferencer = open_inferencer(
        options.config, options.checkpoint, options.device, options.bf16, options.cfg_options
    )
    found = Results(Path(options.out), _about(options, inferencer))
    try:
        for word, reason in empty.items():
            found.skip(word, reason)
        _predict_all(inferencer, files, found, options)
    finally:  # after Ctrl-C too: what is done is kept
        found.write()
    count = len(found.images)
    print(f'{count} image{"s" * (count != 1)} in {found.folder / JSON} and {found.folder / PICTURES}')
    return int(bool(found.skipped))


def _check_options(options: argparse.Namespace) -> None:
    if not 0 <= options.score_thr <= 1:
        raise UserError(f'--score-thr {options.score_thr:g}: scores are between 0 and 1')
    if options.batch_size < 1:
        raise UserError(f'--batch-size {options.batch_size}: at least 1')
    check_folder('--out', options.out)


def _about(options: argparse.Namespace, inferencer: BaseInferencer) -> dict[str, Any]:
    about = {
        'config': options.config,
        'checkpoint': options.checkpoint,
        'classes': list(inferencer.model.dataset_meta['classes']),
    }
    return about if is_segmentor(inferencer) else {**about, 'score_thr': options.score_thr}


def _predict_all(
    inferencer: BaseInferencer, files: list[Path], found: Results, options: argparse.Namespace
) -> None:
    _make_folders(found.folder, [PICTURES, LABEL_MAPS] if is_segmentor(inferencer) else [PICTURES])
    names = name_outputs(files, found.folder / PICTURES)
    todo = list(zip(files, names, strict=True))
    with progress_bar() as progress:
        task = progress.add_task('predict', total=len(todo))
        for start in range(0, len(todo), options.batch_size):
            batch = todo[start : start + options.batch_size]
            read = list(_read(batch, found))
            samples = predict(inferencer, [widen(image) for _, _, image in read])
            for (file, name, image), sample in zip(read, samples, strict=True):
                record = {'file': str(file), 'height': image.shape[0], 'width': image.shape[1]}
                write = _write_segments if is_segmentor(inferencer) else _write_objects
                found.images.append(record | write(inferencer, image, sample, found, name))
            progress.advance(task, len(batch))


def _read(batch: list[tuple[Path, str]], found: Results) -> Iterator[tuple[Path, str, np.ndarray]]:
    for file, name in batch:
        try:
            yield file, name, read_image(file)
        except NoImageError as error:
            found.skip(file, str(error))


def _write_objects(
    inferencer: BaseInferencer, image: np.ndarray, sample: BaseDataElement, found: Results, name: str
) -> dict[str, Any]:
    classes, score_thr = found.about['classes'], found.about['score_thr']
    objects = results.object_records(sample, classes, image.shape[:2], score_thr)
    picture = f'{PICTURES}/{name}.png'
    write_atomically(
        found.folder / picture, lambda path: drawing.save_objects(path, image, objects), overwrite=True
    )
    return {'picture': picture, 'objects': objects}


def _write_segments(
    inferencer: BaseInferencer, image: np.ndarray, sample: BaseDataElement, found: Results, name: str
) -> dict[str, Any]:
    labels = results.label_map(sample, image.shape[:2])
    segments = results.segment_records(labels, found.about['classes'])
    colours = inferencer.model.dataset_meta['palette']
    picture, label_map = f'{PICTURES}/{name}.png', f'{LABEL_MAPS}/{name}.png'
    write_label_map(found.folder / label_map, labels)
    drawn = SegmentedImage(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), None, labels)
    write_atomically(
        found.folder / picture,
        lambda path: save_pairs(path, [drawn], found.about['classes'], colours),
        overwrite=True,
    )
    return {'picture': picture, 'label_map': label_map, 'segments': segments}


def _make_folders(folder: Path, names: list[str]) -> None:
    try:
        for name in names:
            (folder / name).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f'--out {folder}: cannot be written ({error.strerror})') from error
