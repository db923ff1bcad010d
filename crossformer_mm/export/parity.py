"""Whether an exported file computes what its model does in PyTorch, on real images."""

import math
import warnings
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from mmengine.model import BaseModel
from mmengine.structures import BaseDataElement
from torch import Tensor

from ..deploy.model import OnnxModel
from ..deploy.prepare import prepare
from .object_parity import compare_objects

_Rows: TypeAlias = Sequence[dict[str, np.ndarray]]  # the outputs of a file for each image
_TOGETHER = 3  # images in a batch of any size; many could need more memory than there is
_OF_LARGEST = ' of the largest value'
_Sizes: TypeAlias = Sequence[tuple[int, int]]  # height and width of each image without padding


class Tolerance(NamedTuple):
    """The largest differences that are accepted."""

    maps: float
    """Of a value, relative to the largest one of its map, or of all probabilities."""
    scores: float
    """Of an object's score."""
    pixels: float
    """The share of pixels with another label, or of pixels of a box with another mask."""
    boxes: float
    """Of an edge of one object's boxes, in pixels."""
    objects: float
    """The share of objects that only one of the two finds."""


TOLERANCES = {
    'float32': Tolerance(maps=1e-4, scores=1e-4, pixels=1e-3, boxes=0.05, objects=0.01),
    'float16': Tolerance(maps=2e-2, scores=2e-2, pixels=2e-2, boxes=2.0, objects=0.1),
    # only what makes no sense: integers cost accuracy, which an evaluation measures
    'int8': Tolerance(maps=0.5, scores=math.inf, pixels=0.1, boxes=math.inf, objects=0.5),
}
_CERTAIN = 0.45  # objects whose score is this much above the lowest must always be found


class Difference(NamedTuple):
    """How much one quantity differs."""

    what: str
    value: float
    tolerance: float
    unit: str = ''

    def __str__(self) -> str:
        """For example ``boxes differ by at most 0.0012 px (tolerance 0.05)``."""
        limit = '' if math.isinf(self.tolerance) else f' (tolerance {self.tolerance:g})'
        return f'{self.what} {self.value:.2g}{self.unit}{limit}'

    @property
    def is_accepted(self) -> bool:
        """Whether it is within the tolerance; NaN is not."""
        return self.value <= self.tolerance


class Comparison(NamedTuple):
    """The result of comparing a file with its model."""

    differences: list[Difference]
    objects: int | None = None
    """How many objects the model found; None if it is no detector."""


def compare(
    file: OnnxModel, model: BaseModel, images: Sequence[np.ndarray], tolerance: Tolerance
) -> Comparison:
    """Compare a file with the toolbox's own prediction.

    Args:
        file: The exported file.
        model: The model that was exported, in float32 and in evaluation mode.
        images: BGR, each ``(H, W, 3)``, uint8, of any sizes.
        tolerance: What to accept.
    """
    prepared = [prepare(image, file.size, file.preprocessing) for image in images]
    ours: list[dict[str, np.ndarray]] = []
    step = file.batch or _TOGETHER
    for start in range(0, len(prepared), step):
        group, sizes = zip(*prepared[start : start + step], strict=True)
        outputs = file.run(np.stack(group), np.array(sizes))
        ours += [{name: values[i] for name, values in outputs.items()} for i in range(len(group))]
    predict, measure = _METHODS[file.task]
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter('ignore')  # MMDetection's, of slow conversions
        theirs = [predict(model, image, size) for image, size in prepared]
    return measure(ours, theirs, [size for _, size in prepared], tolerance)


def _network_input(model: BaseModel, image: np.ndarray, size: tuple[int, int]) -> Tensor:
    """What the model's own preprocessor makes of an image, padded to the size of the file's input.

    Args:
        model: The model.
        image: RGB, with padding at the bottom and right, ``(H, W, 3)``.
        size: Height and width without padding.
    """
    (h, w), (H, W), preprocessor = size, image.shape[:2], model.data_preprocessor
    bgr = torch.from_numpy(image[:h, :w, ::-1].copy()).permute(2, 0, 1)
    data = preprocessor({'inputs': [bgr], 'data_samples': [BaseDataElement()]})
    padding = getattr(preprocessor, 'pad_value', getattr(preprocessor, 'pad_val', 0))
    return F.pad(data['inputs'][..., :h, :w], (0, W - w, 0, H - h), value=padding)


def _maps(model: BaseModel, image: np.ndarray, size: tuple[int, int]) -> list[np.ndarray]:
    return [x[0].numpy() for x in model.backbone(_network_input(model, image, size))]


def _class_scores(model: BaseModel, image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    return model.predict(_network_input(model, image, size))[0].pred_score.numpy()


def _labels(model: BaseModel, image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    shape = image.shape[:2]
    sample = BaseDataElement(metainfo={'ori_shape': shape, 'img_shape': shape, 'pad_shape': shape})
    (found,) = model.predict(_network_input(model, image, size), [sample])
    return found.pred_sem_seg.data[0, : size[0], : size[1]].numpy()


def _objects(model: BaseModel, image: np.ndarray, size: tuple[int, int]) -> dict[str, np.ndarray]:
    shapes = {'ori_shape': size, 'img_shape': size, 'scale_factor': (1.0, 1.0)}
    padded = dict.fromkeys(('pad_shape', 'batch_input_shape'), image.shape[:2])
    sample = BaseDataElement(metainfo={**shapes, **padded})
    (found,) = model.predict(_network_input(model, image, size), [sample], rescale=False)
    return {name: value.numpy() for name, value in found.pred_instances.items()}


def _compare_maps(ours: _Rows, theirs: list, sizes: _Sizes, tolerance: Tolerance) -> Comparison:
    pairs = [
        pair for row, maps in zip(ours, theirs, strict=True) for pair in zip(row.values(), maps, strict=True)
    ]
    return Comparison([Difference('maps differ by at most', _relative(pairs), tolerance.maps, _OF_LARGEST)])


def _relative(pairs: Sequence[tuple[np.ndarray, np.ndarray]]) -> float:
    """The largest difference of two arrays, relative to the largest value of the second."""
    return float(max(np.abs(a - b).max() / np.abs(b).max() for a, b in pairs))


def _compare_class_scores(ours: _Rows, theirs: list, sizes: _Sizes, tolerance: Tolerance) -> Comparison:
    pairs = [(row['scores'], scores) for row, scores in zip(ours, theirs, strict=True)]
    # the best class may change where two are equally good
    others = sum(b[a.argmax()] < b.max() * (1 - tolerance.maps) for a, b in pairs)
    return Comparison(
        [
            Difference('probabilities differ by at most', _relative(pairs), tolerance.maps, _OF_LARGEST),
            Difference('images with another best class:', others, 0),
        ]
    )


def _compare_labels(ours: _Rows, theirs: list, sizes: _Sizes, tolerance: Tolerance) -> Comparison:
    others = [row['labels'][:h, :w] != b for row, b, (h, w) in zip(ours, theirs, sizes, strict=True)]
    share = np.concatenate([other.ravel() for other in others]).mean()
    return Comparison([Difference('share of pixels with another label:', share, tolerance.pixels)])


def _compare_objects(ours: _Rows, theirs: list, sizes: _Sizes, tolerance: Tolerance) -> Comparison:
    found = [
        compare_objects(row, objects, size, min(tolerance.scores, _CERTAIN), tolerance.boxes)
        for row, objects, size in zip(ours, theirs, sizes, strict=True)
    ]
    count = sum(image.objects for image in found)
    alone = sum(image.alone for image in found) / max(count, 1)
    differences = [
        Difference('share of objects that only one of the two finds:', alone, tolerance.objects),
        Difference('scores differ by at most', max(image.scores for image in found), tolerance.scores),
        Difference('boxes differ by at most', max(image.boxes for image in found), tolerance.boxes, ' px'),
    ]
    if 'masks' in theirs[0]:
        share = sum(image.mask_pixels for image in found) / max(sum(image.box_pixels for image in found), 1)
        differences.append(
            Difference("share of the boxes' pixels with another mask:", share, tolerance.pixels)
        )
    return Comparison(differences, count)


_METHODS: dict[str, tuple[Callable, Callable]] = {
    'features': (_maps, _compare_maps),
    'classification': (_class_scores, _compare_class_scores),
    'semantic segmentation': (_labels, _compare_labels),
    'detection': (_objects, _compare_objects),
    'instance segmentation': (_objects, _compare_objects),
}
