"""``crossformer export``: write a model as an ONNX file."""

import argparse
import shlex
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.model import BaseModel

from ..checkpoint import load_backbone, load_model
from ..checkpoint.meta import trained_without_exif
from ..checkpoint.reader import Checkpoint, open_checkpoint
from ..data.datasets import image_folder, set_num_classes
from ..data.exif import ignores_exif
from ..data.images import SUFFIXES, NoImageError, image_files, read_image, spread
from ..deploy.model import SUFFIX, OnnxModel
from ..export.graphs import graph_of
from ..export.parity import TOLERANCES, Comparison, compare
from ..export.precision import in_float16
from ..export.preprocessing import crop_size, preprocessing_of
from ..utils.errors import UserError, ran_out_of_memory
from ..utils.files import check_free, sha256_of, write_atomically
from ..utils.outputs import check_place
from ..utils.text import printable
from ..version import __version__
from .config import load_config
from .config_options import CONFIG_HELP, add_cfg_options
from .flops import MAX_PIXELS, build_model
from .image_results import find_files
from .inferencer import meta_for

_PACKAGES = ('onnx', 'onnxruntime')
_LEAST_SIDE = 32  # pixels
_MOST_OF_DATASET, _MOST_GIVEN = 4, 16  # images on which a file is compared with PyTorch
_FEW_IMAGES = 8  # from which the ranges of integers are taken


def export_parser() -> argparse.ArgumentParser:
    """The options of the command."""
    parser = argparse.ArgumentParser(
        description='Write a complete model, from the pixels to the result, as an ONNX file, which'
        ' "crossformer infer --onnx" and other programs run without PyTorch. The file is compared with'
        ' PyTorch on images, and not kept if it differs.'
    )
    parser.add_argument('config', help=CONFIG_HELP)
    parser.add_argument('checkpoint', help='the weights, which also contain the class names')
    parser.add_argument('out', metavar='OUT', help=f'the new file, {SUFFIX}')
    parser.add_argument(
        '--size',
        nargs=2,
        type=int,
        metavar=('H', 'W'),
        help='height and width of the images that the file takes, in pixels; others are resized to it'
        " (classifiers: the config's crop)",
    )
    batch = parser.add_mutually_exclusive_group()
    batch.add_argument('--batch', type=int, default=1, metavar='N', help='images in a batch (%(default)s)')
    batch.add_argument('--dynamic-batch', action='store_true', help='let the file take any number of images')
    precision = parser.add_mutually_exclusive_group()
    precision.add_argument('--half', action='store_true', help='store and compute the network in float16')
    precision.add_argument(
        '--int8',
        nargs='+',
        metavar='IMAGES',
        help='compute convolutions and linear layers with integers of 8 bits, in the ranges that they have on'
        ' these images: files, folders or patterns, such as a hundred images of the training set',
    )
    parser.add_argument(
        '--backbone', action='store_true', help='only the backbone, with the maps of its stages'
    )
    parser.add_argument(
        '--images',
        nargs='+',
        metavar='IMAGES',
        help='files, folders or patterns: the images on which the file is compared with PyTorch'
        f" (up to {_MOST_OF_DATASET} of the config's test dataset)",
    )
    parser.add_argument('--overwrite', action='store_true', help='replace OUT if it exists')
    add_cfg_options(parser)
    return parser


def export(options: argparse.Namespace) -> None:
    """Export a model, compare the file with PyTorch, and keep it if they agree.

    Args:
        options: The options parsed by :func:`export_parser`.

    Raises:
        UserError: An option, the config or the checkpoint is invalid, or the file differs from PyTorch.
    """
    _check_installed()
    from ..export.int8 import quantise
    from ..export.onnx_file import trace, write_onnx

    out = Path(options.out)
    _check_options(options, out)
    cfg = load_config(options.config, options.cfg_options)
    if not isinstance(cfg.get('model'), dict) or not _test_dataset(cfg).get('pipeline'):
        raise UserError(f'{options.config}: has no model and test pipeline; give a complete config')
    size = _size(options, cfg)
    checkpoint = open_checkpoint(options.checkpoint)
    ignore_exif = ignores_exif(cfg) or bool(trained_without_exif(checkpoint))
    preprocessing = preprocessing_of(cfg, size, ignore_exif)
    calibration = _calibration(options)
    images = _images(options, cfg, ignore_exif)
    meta = {'classes': [], 'palette': []} if options.backbone else meta_for(cfg, checkpoint)
    model = _open_model(cfg, checkpoint, meta['classes'])
    precision = 'float16' if options.half else 'int8' if options.int8 else 'float32'
    graph = graph_of(in_float16(model) if options.half else model, options.backbone)
    metadata = {
        'task': graph.task,
        'classes': list(meta['classes']),
        'palette': [list(colour) for colour in meta['palette']],
        'preprocessing': preprocessing,
        'origin': _origin(cfg, checkpoint, precision),
    }
    with _timed('exporting'):
        proto = trace(graph, size, None if options.dynamic_batch else options.batch)
    if calibration:
        with _timed(f'quantising on {len(calibration)} images'):
            proto = quantise(proto, calibration, preprocessing)

    def save(part: Path) -> None:
        write_onnx(proto, metadata, part)
        with _timed(f'comparing with PyTorch on {len(images)} image{"s" * (len(images) != 1)}'):
            comparison = compare(OnnxModel(part), model, images, TOLERANCES[precision])
        _report(comparison, out)

    write_atomically(out, save, overwrite=options.overwrite)
    _say_what_next(options, out)


def _say_what_next(options: argparse.Namespace, out: Path) -> None:
    uses = {'runs it': ['infer', '--onnx', options.out, 'IMAGES']}
    if options.int8:
        uses['measures what integers cost'] = ['test', options.config, options.out]
    print(printable(f'{out}, {out.stat().st_size / 1e6:.1f} MB'))
    for use, words in uses.items() if not options.backbone else ():
        print(printable(f'  {shlex.join(["crossformer", *words])} {use}'))


def _check_installed() -> None:
    if missing := [name for name in _PACKAGES if find_spec(name) is None]:
        names = ' '.join(missing)
        raise UserError(f'{names}: not installed, which export needs: pip install {names}')


def _check_options(options: argparse.Namespace, out: Path) -> None:
    if options.batch < 1:
        raise UserError(f'--batch {options.batch}: must be at least 1')
    H, W = options.size or (_LEAST_SIDE, _LEAST_SIDE)
    if min(H, W) < _LEAST_SIDE or H * W > MAX_PIXELS:
        limits = f'both must be at least {_LEAST_SIDE} pixels, and their product at most {MAX_PIXELS}'
        raise UserError(f'--size {H} {W}: {limits}')
    if out.suffix != SUFFIX:
        raise UserError(f'{out}: the name must end with {SUFFIX}')
    if not out.parent.is_dir():
        raise UserError(f'{out}: there is no folder {out.parent}; create it first')
    check_place('OUT', out, [options.checkpoint])
    check_free(out, options.overwrite)


def _test_dataset(cfg: Config) -> dict[str, Any]:
    return (cfg.get('test_dataloader') or {}).get('dataset', {})


def _size(options: argparse.Namespace, cfg: Config) -> tuple[int, int]:
    """Height and width of the file's input."""
    size = options.size or crop_size(cfg)
    if size is None:
        raise UserError('--size H W: is missing; give the height and width to which images are resized')
    return tuple(size)


def _images(options: argparse.Namespace, cfg: Config, ignore_exif: bool) -> list[np.ndarray]:
    """The images on which the file is compared with PyTorch, BGR."""
    if options.images:
        files = spread(_find('--images', options.images, options.out), _MOST_GIVEN)
    else:
        folder = image_folder(_test_dataset(cfg))
        files = spread(image_files(folder), _MOST_OF_DATASET)
        if not files:
            raise UserError(f'no images at {folder} to compare the file on; give some with --images')
    images = []
    for file in files:
        try:
            images.append(read_image(file, ignore_exif))
        except NoImageError as error:
            raise UserError(f'{file}: {error}; give other --images') from error
    return images


def _calibration(options: argparse.Namespace) -> list[Path]:
    """The images from which the ranges of integers are taken; none without ``--int8``."""
    files = _find('--int8', options.int8 or [], options.out)
    if 0 < len(files) < _FEW_IMAGES:
        print(f'warning: --int8: {len(files)} images are few; give {_FEW_IMAGES} or more that differ')
    return files


def _find(option: str, words: Sequence[str], out: str) -> list[Path]:
    """The images that an option names."""
    files, empty = find_files(words, out)
    for word, reason in empty.items():
        raise UserError(f'{option} {word}: {reason}')
    named = [file for file in files if file.name.lower().endswith(SUFFIXES)]  # annotations are beside them
    return named or files


def _open_model(cfg: Config, checkpoint: Checkpoint, classes: Sequence[str]) -> BaseModel:
    """Build a config's model with the weights of a checkpoint; without classes, load only the backbone's."""
    if classes:
        set_num_classes(cfg.model, len(classes))
    model = build_model(cfg)
    if classes:
        load_model(model, checkpoint)
    else:
        load_backbone(model.backbone, checkpoint)
    return model


def _origin(cfg: Config, checkpoint: Checkpoint, precision: str) -> dict[str, str]:
    return {
        'config': Path(cfg.filename).name,
        'checkpoint': checkpoint.path.name,
        'sha256': sha256_of(checkpoint.path),
        'precision': precision,
        'crossformer_mm': __version__,
        'torch': torch.__version__,
    }


@contextmanager
def _timed(what: str) -> Iterator[None]:
    """Print what is done in the block, which may take minutes, and then how long it took.

    Raises:
        UserError: It needs more memory than there is.
    """
    print(what, flush=True)
    start = time.monotonic()
    try:
        yield
    except Exception as error:  # torch, onnxruntime and numpy raise different ones
        if not ran_out_of_memory(error):
            raise
        raise UserError(f'{what}: there is not enough memory; give a smaller --size or --batch') from error
    print(f'  {time.monotonic() - start:.1f} s', flush=True)


def _report(comparison: Comparison, out: Path) -> None:
    """Print the differences.

    Raises:
        UserError: One is too large.
    """
    for difference in comparison.differences:
        print(f'  {difference}')
    if comparison.objects == 0:
        print('warning: no object was found in these images, so nothing was compared; give other --images')
    elif comparison.objects:
        print(f'  objects that PyTorch finds: {comparison.objects}')
    if wrong := [str(d) for d in comparison.differences if not d.is_accepted]:
        raise UserError(f'{out}: differs from PyTorch and is not kept: {"; ".join(wrong)}')
