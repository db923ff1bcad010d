"""Run an exported file on images."""

import json
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from ..utils.errors import UserError
from .masks import PastedMasks
from .predictions import Objects
from .prepare import prepare, widen

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

SUFFIX = '.onnx'  # of the names of exported files
_METADATA = {'task': str, 'classes': list, 'palette': list, 'preprocessing': dict, 'origin': dict}
_INPUTS = (['image', 'size'], ['image'])  # a classifier needs no size
_FATAL = 4  # onnxruntime's level of messages; errors are raised as well


class OnnxModel:
    """An exported model, run by onnxruntime on CPUs.

    Args:
        path: The file.
        threads: How many threads compute; by default one for each core.

    Attributes:
        task: ``'detection'``, ``'instance segmentation'``, ``'semantic segmentation'``, ``'classification'``
            or ``'features'``.
        classes: The class names.
        palette: RGB of each class.
        size: Height and width of the file's input.
        batch: How many images the file takes at a time; None for any number.
        preprocessing: How images are resized.
        origin: From what the file was exported.

    Raises:
        UserError: onnxruntime is missing, or the file cannot be read or is not one of ours.
    """

    def __init__(self, path: str | Path, threads: int | None = None) -> None:
        self._session = _open(Path(path), threads)
        metadata = _metadata(Path(path), self._session)
        self.task: str = metadata['task']
        self.classes: list[str] = metadata['classes']
        self.palette: list[list[int]] = metadata['palette']
        self.preprocessing: dict[str, Any] = metadata['preprocessing']
        self.origin: dict[str, Any] = metadata['origin']
        batch, height, width, _ = self._session.get_inputs()[0].shape
        self.size: tuple[int, int] = (height, width)
        self.batch: int | None = batch if isinstance(batch, int) else None

    @property
    def ignore_exif(self) -> bool:
        """Whether images are to be read without turning them as their EXIF data says."""
        return self.preprocessing['ignore_exif']

    def predict(self, images: Sequence[np.ndarray]) -> list[Objects | np.ndarray]:
        """Predict on images, all in one batch if the file takes any number.

        Args:
            images: BGR, each ``(H, W, 3)``, uint8, of any sizes.

        Returns:
            The prediction for each, in its own pixels (:mod:`crossformer_mm.deploy.predictions`). The label
            map of an image that was resized is resized without interpolation, so that borders between classes
            are as coarse as in the file's output; PyTorch resizes the logits. Otherwise both are equal.
        """
        if not images:
            return []
        widened = [widen(image) for image in images]
        prepared, sizes = zip(
            *(prepare(image, self.size, self.preprocessing) for image in widened), strict=True
        )
        outputs = self.run(np.stack(prepared), np.array(sizes))
        if self.task == 'classification':
            return list(outputs['scores'])
        found = _label_map if self.task == 'semantic segmentation' else _objects
        return [
            found(
                {name: values[i] for name, values in outputs.items()}, valid, wide.shape[:2], image.shape[:2]
            )
            for i, (valid, wide, image) in enumerate(zip(sizes, widened, images, strict=True))
        ]

    def run(self, images: np.ndarray, sizes: np.ndarray) -> dict[str, np.ndarray]:
        """Compute the outputs of the file.

        Args:
            images: Prepared images, RGB, uint8, ``(n, H, W, 3)``, at least one.
            sizes: Height and width of each without padding, ``(n, 2)``. Classifiers do not need it.

        Returns:
            The outputs by name, of ``n`` images each.
        """
        step = self.batch or len(images)
        parts = [
            self._run(images[start : start + step], sizes[start : start + step], step)
            for start in range(0, len(images), step)
        ]
        names = [output.name for output in self._session.get_outputs()]
        return {
            name: np.concatenate(values) for name, values in zip(names, zip(*parts, strict=True), strict=True)
        }

    def _run(self, images: np.ndarray, sizes: np.ndarray, batch: int) -> list[np.ndarray]:
        """Compute the outputs of a batch, of which the last image is repeated if there are too few."""
        which = np.arange(batch).clip(max=len(images) - 1)
        inputs = {'image': images[which], 'size': sizes[which].astype(np.int64)}
        taken = {item.name: inputs[item.name] for item in self._session.get_inputs()}
        return [output[: len(images)] for output in self._session.run(None, taken)]


def _open(path: Path, threads: int | None) -> 'InferenceSession':
    if find_spec('onnxruntime') is None:
        raise UserError('onnxruntime is not installed, which runs exported models: pip install onnxruntime')
    import onnxruntime

    try:
        content = path.read_bytes()  # onnxruntime opens no file of which the name is not UTF-8
    except OSError as error:
        raise UserError(
            f'{path}: cannot be read ({error.strerror}); give a file that "crossformer export" has written'
        ) from error
    options = onnxruntime.SessionOptions()
    options.log_severity_level = _FATAL
    options.intra_op_num_threads = threads or 0
    try:
        return onnxruntime.InferenceSession(content, options, providers=['CPUExecutionProvider'])
    except Exception as error:  # onnxruntime's errors have no common class
        reason = str(error).partition('\n')[0]
        raise UserError(f'{path}: cannot be opened as an ONNX file ({reason}); export it again') from error


def _metadata(path: Path, session: 'InferenceSession') -> dict[str, Any]:
    texts = session.get_modelmeta().custom_metadata_map
    try:
        metadata = {name: json.loads(texts[name]) for name in _METADATA}
    except (KeyError, ValueError):
        metadata = {}
    known = [name for name, kind in _METADATA.items() if isinstance(metadata.get(name), kind)]
    if len(known) < len(_METADATA) or [item.name for item in session.get_inputs()] not in _INPUTS:
        raise UserError(
            f'{path}: lacks the inputs or the {", ".join(_METADATA)} of an exported model; give a file that'
            ' "crossformer export" has written'
        )
    return metadata


def _objects(
    outputs: dict[str, np.ndarray], valid: tuple[int, int], wide: tuple[int, int], size: tuple[int, int]
) -> Objects:
    """The objects in an image.

    Args:
        outputs: Those of the file for this image.
        valid: Height and width of the prepared image without padding.
        wide: Those of the image from which it was resized.
        size: Those of the user's image, the top left part of it.
    """
    found = outputs['labels'] >= 0
    factors = np.divide(valid, wide)[[1, 0, 1, 0]].astype(np.float32)
    boxes = outputs['boxes'][found] / factors
    masks = PastedMasks(outputs['masks'][found], boxes, size) if 'masks' in outputs else None
    inside = boxes.clip(0, np.array(size, np.float32)[[1, 0, 1, 0]])
    return Objects(inside, outputs['scores'][found], outputs['labels'][found], masks)


def _label_map(
    outputs: dict[str, np.ndarray], valid: tuple[int, int], wide: tuple[int, int], size: tuple[int, int]
) -> np.ndarray:
    """The label map of an image, with the arguments of :func:`_objects`."""
    labels = outputs['labels'][: valid[0], : valid[1]]
    return cv2.resize(labels, wide[::-1], interpolation=cv2.INTER_NEAREST_EXACT)[: size[0], : size[1]]
