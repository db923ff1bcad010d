"""``crossformer infer``: predict on image files, and write pictures and a JSON file."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
from rich.progress import Progress

from ..data.images import IGNORE_EXIF_HELP
from ..data.label_files import write_label_map
from ..deploy.model import OnnxModel
from ..deploy.predictions import Objects
from ..deploy.tiles import OVERLAP, TiledModel, check_tiles
from ..evaluation.class_pictures import save_classified
from ..evaluation.detection_pictures import drawn_objects, save_objects
from ..evaluation.records import best_classes, class_record, object_records, segment_records
from ..evaluation.segmentation_pictures import SegmentedImage, save_segments
from ..utils.errors import UserError, ran_out_of_memory
from ..utils.progress import progress_bar
from ..utils.text import printable
from .config_options import CONFIG_HELP, add_cfg_options
from .image_results import ImageResults, check_image_options, run_on_images


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
    return run_on_images(
        options.images,
        options.out,
        lambda files: _Output(options, _tiled(_open_model(options), options), files),
        lambda files, output: _predict_all(files, output, options),
    )


def _check_options(options: argparse.Namespace) -> None:
    check_image_options(options)
    if options.tiles is not None:
        check_tiles(options.tiles, _overlap(options))
    elif options.overlap is not None:
        raise UserError(f'--overlap {options.overlap:g}: has no effect without tiles; add --tiles S')
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


def _tiled(model: Model, options: argparse.Namespace) -> Model:
    if options.tiles is None:
        return model
    settings = {'batch': options.batch_size, 'score_thr': options.score_thr}
    return TiledModel(model, options.tiles, _overlap(options), **settings)


def _overlap(options: argparse.Namespace) -> float:
    return OVERLAP if options.overlap is None else options.overlap


def _predict_all(files: Sequence[Path], output: _Output, options: argparse.Namespace) -> None:
    ignore_exif = options.ignore_exif or output.model.ignore_exif
    step = options.batch_size
    with progress_bar() as progress:
        task = progress.add_task('predict', total=len(files))
        if isinstance(output.model, TiledModel):
            step = 1  # image of one or more batches of tiles
            output.model.on_tile = _tile_counter(progress)
        for start in range(0, len(files), step):
            batch = files[start : start + step]
            _predict_batch(batch, output, ignore_exif)
            progress.advance(task, len(batch))


def _tile_counter(progress: Progress) -> Callable[[int, int], None]:
    """A second bar for the tiles of the present image, with the remaining time."""
    task = progress.add_task('tiles', visible=False)

    def count(done: int, total: int) -> None:
        if not done:
            progress.reset(task, total=total, visible=True)
        progress.update(task, completed=done)

    return count


def _predict_batch(files: Sequence[Path], output: _Output, ignore_exif: bool) -> None:
    """Predict on files in one batch, or on each alone if the batch does not fit into memory."""
    images = ((file, output.read(file, ignore_exif)) for file in files)
    read = [(file, image) for file, image in images if image is not None]
    done = 0
    try:
        predictions = output.model.predict([image for _, image in read])
        for (file, image), prediction in zip(read, predictions, strict=True):
            output.write_prediction(file, image, prediction)
            done += 1
        return
    except Exception as error:  # torch, onnxruntime, numpy and OpenCV raise different ones
        if not ran_out_of_memory(error):
            raise
    # Here, the error no longer keeps in memory what was computed.
    if len(read) == 1:
        remedy = '; smaller --tiles need less' if isinstance(output.model, TiledModel) else ''
        output.skip(read[0][0], f'there is not enough memory to predict on it{remedy}')
    else:
        for file, _ in read[done:]:
            _predict_batch([file], output, ignore_exif)


class _Output(ImageResults):
    """The pictures and label maps of predictions.

    Args:
        options: The options of the command.
        model: The model.
        files: The images.

    Raises:
        UserError: An image, or a file that is not an earlier result, would be replaced.
    """

    def __init__(self, options: argparse.Namespace, model: Model, files: Sequence[Path]) -> None:
        self.model = model
        self.score_thr = options.score_thr
        self.segments = model.task == 'semantic segmentation'
        self.whole_images = model.task == 'classification'
        about = {'onnx': options.onnx} if options.onnx else {}
        about |= {name: model.origin[name] for name in ('config', 'checkpoint')}
        about['classes'] = model.classes
        if not self.segments and not self.whole_images:
            about['score_thr'] = self.score_thr
        kinds = ('picture', 'label_map') if self.segments else ('picture',)
        super().__init__(options.out, files, kinds, about)

    def write_prediction(self, file: Path, image: np.ndarray, prediction: Objects | np.ndarray) -> None:
        """Write the prediction for an image, BGR ``(H, W, 3)``."""
        size, classes = image.shape[:2], self.model.classes
        picture = cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
        paths = self.paths[file]
        drawn = self.folder / paths['picture']
        if self.segments:
            write_label_map(self.folder / paths['label_map'], prediction)
            found = {'segments': segment_records(prediction, classes)}
            save_segments(drawn, [SegmentedImage(picture, [prediction])], classes, self.model.palette)
        elif self.whole_images:
            found = class_record(*best_classes(prediction), classes)
            if not found['top']:
                self.skip(file, 'its scores are NaN: the weights are damaged, or numbers overflow')
                return
            print(printable(f'{file}: {found["name"]} {found["score"]:.2f}'))
            save_classified(drawn, picture, found)
        else:
            settings = prediction, classes, size, self.score_thr
            found = {'objects': object_records(*settings)}
            save_objects(drawn, [(picture, drawn_objects(*settings))])
        self.add(file, size, found)
