"""``crossformer explain``: which pixels a prediction rests on, and which tokens attend to which."""

import argparse
import difflib
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..data.exif import ignores_exif
from ..data.images import IGNORE_EXIF_HELP
from ..explain.attention import watched_attention
from ..explain.cam import grad_cam, local_cam, score_cam, watched_map
from ..explain.pictures import save_attention, save_maps
from ..explain.targets import NoTarget, Target, class_target, object_target, region_target
from ..models.crossformer import CrossFormer
from ..utils.errors import UserError, ran_out_of_memory
from ..utils.progress import progress_bar
from ..utils.text import shorten
from .config_options import CONFIG_HELP, add_cfg_options
from .image_results import ImageResults, check_image_options, run_on_images
from .inferencer import is_classifier, is_segmentor, open_inferencer
from .network_input import NetworkInput, prepare_input

_STAGE_OF_OBJECTS = 2  # of the demo's objects, most of the map is in their boxes
_CLOSE = 3  # names that a message proposes


def explanation_parser() -> argparse.ArgumentParser:
    """The options of the command."""
    parser = argparse.ArgumentParser(
        description='Explain predictions: the pixels that each rests on (Grad-CAM and Score-CAM), or the'
        ' tokens that a position attends to.'
    )
    parser.add_argument('config', help=CONFIG_HELP)
    parser.add_argument('checkpoint', help='the weights, which also contain the class names')
    parser.add_argument('images', nargs='+', help='files, folders, or patterns such as "photos/**/*.jpg"')
    what = parser.add_mutually_exclusive_group()
    what.add_argument(
        '--box',
        type=int,
        metavar='N',
        help='detectors: the N-th best object, counted as in the results of "crossformer infer" (1)',
    )
    what.add_argument(
        '--class',
        dest='name',
        metavar='NAME',
        help='the best object of this class; its pixels in a segmentor (default: the largest class);'
        ' its score in a classifier (default: the best class)',
    )
    what.add_argument(
        '--attention',
        nargs=2,
        type=float,
        metavar=('X', 'Y'),
        help='draw instead which tokens the one at this pixel of the image attends to, in each stage',
    )
    parser.add_argument('--out', default='explanations', metavar='DIR', help='output folder (%(default)s)')
    parser.add_argument(
        '--stage',
        type=int,
        metavar='N',
        help=f'take the maps of this stage, from 1 (default: {_STAGE_OF_OBJECTS} for detectors, or the last)',
    )
    parser.add_argument(
        '--channels',
        type=int,
        default=64,
        metavar='N',
        help='Score-CAM: use the N channels that vary most, with a forward for each (%(default)s)',
    )
    parser.add_argument(
        '--score-thr',
        type=float,
        default=0.3,
        metavar='X',
        help='count no objects with a lower score (%(default)s)',
    )
    parser.add_argument('--device', help='cpu, cuda, cuda:1 (default: a GPU, if there is one)')
    parser.add_argument(
        '--batch-size', type=int, default=8, metavar='N', help='Score-CAM: images per batch (%(default)s)'
    )
    parser.add_argument('--ignore-exif', action='store_true', help=IGNORE_EXIF_HELP)
    add_cfg_options(parser)
    return parser


def explain(options: argparse.Namespace) -> int:
    """Explain predictions on images, and write pictures and results.

    Args:
        options: The options parsed by :func:`explanation_parser`.

    Returns:
        The exit status: 1 if a file was skipped.

    Raises:
        UserError: An option, the config or the checkpoint is invalid, or no file was found.
    """
    _check_options(options)
    return run_on_images(
        options.images,
        options.out,
        lambda files: _Explanations(options, files),
        lambda files, explanations: _explain_all(files, explanations, options),
    )


def _check_options(options: argparse.Namespace) -> None:
    check_image_options(options)
    for name in ('box', 'stage', 'channels'):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise UserError(f'--{name} {value}: must be at least 1')


def _explain_all(files: Sequence[Path], explanations: '_Explanations', options: argparse.Namespace) -> None:
    ignore_exif = options.ignore_exif or ignores_exif(explanations.inferencer.cfg)
    steps = 1 if options.attention else 1 + options.channels  # forwards per image
    with progress_bar() as progress:
        task = progress.add_task('explain', total=steps * len(files))
        for done, file in enumerate(files, start=1):
            image = explanations.read(file, ignore_exif)
            if image is not None:
                explanations.explain(file, image, lambda count: progress.advance(task, count))
            progress.update(task, completed=done * steps)


class _Explanations(ImageResults):
    """The pictures of explanations.

    Args:
        options: The options of the command.
        files: The images.

    Raises:
        UserError: The model cannot be opened or explained, or a file of the user would be replaced.
    """

    def __init__(self, options: argparse.Namespace, files: Sequence[Path]) -> None:
        self.options = options
        self.inferencer = open_inferencer(
            options.config,
            options.checkpoint,
            options.device,
            cfg_options=options.cfg_options,
            without_exif=options.ignore_exif,
        )
        self.model = self.inferencer.model.requires_grad_(False)  # maps alone need gradients
        self.classes = list(self.model.dataset_meta['classes'])
        self.label = None if options.name is None else _label_of(options.name, self.classes)
        self.detects = not is_segmentor(self.inferencer) and not is_classifier(self.inferencer)
        self._check_model()
        about = {'config': options.config, 'checkpoint': options.checkpoint, 'classes': self.classes}
        if not options.attention:
            self.stage = self._stage()
            about |= {'stage': self.stage}
        super().__init__(options.out, files, ['attention' if options.attention else 'map'], about)

    def _check_model(self) -> None:
        kind = type(self.model).__name__
        backbone = getattr(self.model, 'backbone', None)
        if backbone is None:
            raise UserError(f'{kind} has no backbone, whose maps are explained')
        if self.options.attention and not isinstance(backbone, CrossFormer):
            raise UserError(
                f'--attention: the backbone is {type(backbone).__name__}, which is no CrossFormer with groups'
            )
        if self.options.box and not self.detects:
            raise UserError(f'--box {self.options.box}: {kind} predicts no objects; give --class NAME')
        if is_segmentor(self.inferencer) and not hasattr(self.model, 'encode_decode'):
            raise UserError(f'{kind} cannot be explained; an EncoderDecoder can')
        if self.inferencer.cfg.model.get('test_cfg', {}).get('mode') == 'slide':
            raise UserError(
                'the config predicts in windows, and the whole image is explained; give --cfg-options'
                ' model.test_cfg.mode=whole'
            )

    def _stage(self) -> int:
        backbone, wanted = self.model.backbone, self.options.stage
        count = len(backbone.layers if isinstance(backbone, CrossFormer) else backbone.out_indices)
        if wanted is None:
            return min(_STAGE_OF_OBJECTS, count) if self.detects else count
        if wanted > count:
            raise UserError(f'--stage {wanted}: the backbone computes {count} stages')
        return wanted

    def explain(self, file: Path, image: np.ndarray, advance: Callable[[int], object]) -> None:
        """Write the explanation for an image, BGR ``(H, W, 3)``, or skip it.

        Args:
            file: The image's file.
            image: Its pixels.
            advance: Called with a number of forwards, after them.
        """
        try:
            if self.options.attention:
                found = self._explain_attention(file, image)
            else:
                found = self._explain_target(file, image, advance)
        except NoTarget as reason:
            self.skip(file, str(reason))
        except Exception as error:  # torch, numpy and OpenCV raise different ones
            if not ran_out_of_memory(error):
                raise
            self.skip(file, 'there is not enough memory to explain it')
        else:
            self.add(file, image.shape[:2], found)

    def _explain_target(
        self, file: Path, image: np.ndarray, advance: Callable[[int], object]
    ) -> dict[str, Any]:
        seen, options = prepare_input(self.inferencer, image), self.options
        with torch.enable_grad(), watched_map(self.model.backbone, self.stage - 1) as maps:
            target = self._target(seen)
        (map_of_image,) = maps[0]
        if not math.isfinite(target.score.item()):
            raise NoTarget('its score is 0 or not a number')
        (gradient,) = torch.autograd.grad(target.score, maps[0])

        def score(images: Tensor) -> Tensor:
            advance(len(images))
            return target.again(images)

        with torch.no_grad():
            found = {
                'Grad-CAM': grad_cam(map_of_image, gradient[0]),
                'Grad-CAM by place': local_cam(map_of_image, gradient[0]),
                'Score-CAM': score_cam(
                    map_of_image, seen.inputs[0], score, options.channels, options.batch_size
                ),
            }
        overlays = {name: seen.over_picture(values) for name, values in found.items()}
        about = self._about(target, seen, image)
        title = f'{about["name"]} {about["score"]:.2f}'
        box = None if target.box is None else target.box.tolist()
        region = None if target.region is None else target.region.cpu().numpy()
        save_maps(self.folder / self.paths[file]['map'], seen.picture, title, overlays, box, region)
        return {'target': about}

    def _target(self, seen: NetworkInput) -> Target:
        arguments = (self.model, seen.inputs, seen.sample)
        if is_segmentor(self.inferencer):
            return region_target(*arguments, self.label)
        if is_classifier(self.inferencer):
            return class_target(*arguments, self.label)
        return object_target(*arguments, self.options.box or 1, self.label, self.options.score_thr)

    def _about(self, target: Target, seen: NetworkInput, image: np.ndarray) -> dict[str, Any]:
        about = {
            'label': target.label,
            'name': self.classes[target.label],
            'score': round(target.shown, 4),
        }
        if target.box is not None:
            corners = seen.to_image(target.box.cpu().view(2, 2).numpy())
            (left, top), (right, bottom) = corners.clip(0, image.shape[1::-1])
            about['bbox'] = [round(float(value), 2) for value in (left, top, right - left, bottom - top)]
        return about

    def _explain_attention(self, file: Path, image: np.ndarray) -> dict[str, Any]:
        seen = prepare_input(self.inferencer, image)
        height, width = image.shape[:2]
        point = self.options.attention
        if not (0 <= point[0] < width and 0 <= point[1] < height):
            raise NoTarget(
                f'{point[0]:g} {point[1]:g} is outside of the image, which has {width}×{height} pixels'
            )
        x, y = seen.from_image(np.add(point, 0.5))
        if not (0 <= x < seen.picture.shape[1] and 0 <= y < seen.picture.shape[0]):
            raise NoTarget(f'{point[0]:g} {point[1]:g} is outside of the part that the pipeline crops')
        with torch.no_grad(), watched_attention(self.model.backbone, x, y) as found:
            self.model.extract_feat(seen.inputs)
        save_attention(self.folder / self.paths[file]['attention'], seen.picture, found, (x, y))
        return {'position': point, 'blocks': [one.record() for one in found]}


def _label_of(name: str, classes: Sequence[str]) -> int:
    if name in classes:
        return classes.index(name)
    close = difflib.get_close_matches(name, classes, _CLOSE) or classes
    raise UserError(f'--class {name}: no such class; there are {shorten(close)}')
