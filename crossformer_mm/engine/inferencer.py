"""Prediction from Python: the toolboxes' inferencers, with safe and strict loading of the weights."""

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.infer import BaseInferencer
from mmengine.registry import FUNCTIONS, Registry
from mmengine.structures import BaseDataElement, PixelData
from torch import Tensor, nn

from ..checkpoint.load import load_model
from ..checkpoint.meta import dataset_meta_of, trained_without_exif
from ..checkpoint.names import classes_in, tensors_of
from ..checkpoint.reader import Checkpoint, error_context, open_checkpoint
from ..data.datasets import (
    building,
    check_loading,
    dataset_meta,
    palette,
    set_num_classes,
    things_and_stuff,
    without_annotations,
)
from ..data.exif import ignore_exif
from ..deploy.prepare import widen
from ..plugins import TOOLBOXES
from ..utils.errors import UserError
from .config import load_config
from .mixed_precision import keep_boxes_in_float32
from .runner import escape_drawn_names

_GROUP = 1 << 26  # logits at the size of the images that are in memory at a time


def open_inferencer(
    config: str | Path,
    checkpoint: str | Path,
    device: str | None = None,
    bf16: bool = False,
    cfg_options: Sequence[str] = (),
    without_exif: bool = False,
) -> BaseInferencer:
    """Open the inferencer of the config's toolbox.

    It is MMDetection's ``DetInferencer``, MMSegmentation's ``MMSegInferencer`` or MMPretrain's
    ``ImageClassificationInferencer``.

    The weights are read without running any code in them, and every tensor must match the model. The number
    of classes and their names come from the checkpoint, so that the config need not match its data.

    Args:
        config: A config file.
        checkpoint: A checkpoint of the complete model.
        device: Such as ``'cpu'`` or ``'cuda:1'``; by default a GPU, if there is one.
        bf16: Compute in bfloat16 autocast; boxes stay in float32.
        cfg_options: Settings to change in the config, as ``KEY=VALUE``.
        without_exif: Do not turn images as their EXIF data says, as with a checkpoint trained in this way.

    Returns:
        The inferencer; its toolbox's documentation says how to call it.

    Raises:
        UserError: The config or the checkpoint is invalid, they do not fit, the config reads images in
            another way than this does, or the device is not available.
    """
    device = check_device(device)
    cfg = load_config(config, cfg_options)
    dataset = (cfg.get('test_dataloader') or {}).get('dataset', {})
    if not isinstance(cfg.get('model'), dict) or not dataset.get('pipeline'):
        raise UserError(f'{config}: has no model and test pipeline to predict with; give a complete config')
    check_loading(cfg)
    checkpoint = open_checkpoint(checkpoint)
    if without_exif or trained_without_exif(checkpoint):
        ignore_exif(cfg)
    meta = meta_for(cfg, checkpoint)
    set_num_classes(cfg.model, len(meta['classes']))
    dataset.pipeline = without_annotations(dataset.pipeline)
    if cfg.get('visualizer'):
        cfg.visualizer.vis_backends = None  # they need a work folder
    inferencer = _build(cfg, device)
    load_model(inferencer.model, checkpoint)
    inferencer.model.dataset_meta = meta
    if is_classifier(inferencer):
        inferencer.classes = meta['classes']
    else:
        inferencer.visualizer.dataset_meta = meta
        if not is_segmentor(inferencer):  # which draws with OpenCV
            escape_drawn_names(inferencer.visualizer)
    if bf16:
        keep_boxes_in_float32(inferencer.model)
        autocast = torch.autocast(torch.device(device).type, torch.bfloat16)
        inferencer.forward = autocast(inferencer.forward)
    return inferencer


def meta_for(cfg: Config, checkpoint: Checkpoint) -> dict[str, Any]:
    """Find the classes that a model has with the weights of a checkpoint.

    Args:
        cfg: The model's config.
        checkpoint: The checkpoint.

    Returns:
        ``classes`` and ``palette``: names and colours from the checkpoint, or else from the config, or else
        numbered classes.
    """
    meta = dataset_meta_of(checkpoint)
    classes = meta.get('classes')
    if classes is None:
        with error_context(checkpoint.path):
            count = classes_in(tensors_of(checkpoint)) or _num_classes(cfg.model)
        named = dataset_meta(cfg, cfg.test_dataloader.dataset).get('classes') or _imagenet_classes(cfg)
        classes = named if len(named) == count else tuple(f'class {i}' for i in range(count))
    colours = meta.get('palette') or []
    return {'classes': classes, 'palette': colours if len(colours) >= len(classes) else palette(len(classes))}


def check_device(device: str | None) -> str:
    """Check that a device is available.

    Args:
        device: A torch device, or None.

    Returns:
        The device; for None, a GPU if there is one.

    Raises:
        UserError: It is not available.
    """
    counts = {'cpu': 1, 'cuda': torch.cuda.device_count(), 'mps': int(torch.backends.mps.is_available())}
    known = [f'{kind}:{i}' if kind == 'cuda' else kind for kind, n in counts.items() for i in range(n)]
    try:
        wanted = torch.device(device or get_device())
    except RuntimeError:
        wanted = None
    if wanted is None or (wanted.index or 0) >= counts.get(wanted.type, 0):
        raise UserError(f'device {device} is not available; this machine has {", ".join(known)}')
    return str(wanted)


def is_segmentor(inferencer: BaseInferencer) -> bool:
    """Whether an inferencer predicts a class for each pixel, rather than boxes."""
    return inferencer.scope == 'mmseg'


def is_classifier(inferencer: BaseInferencer) -> bool:
    """Whether an inferencer predicts a class for each image."""
    return inferencer.scope == 'mmpretrain'


def predict(inferencer: BaseInferencer, images: Sequence[np.ndarray]) -> list[BaseDataElement]:
    """Predict on a batch.

    Args:
        inferencer: From :func:`open_inferencer`.
        images: BGR, each ``(H, W, 3)``, of any sizes. A detector processes them in one batch, others in
            batches of consecutive images that have the same size after the pipeline.

    Returns:
        The toolbox's data sample of each image, in the image's own pixels. A segmentor's samples contain
        labels but no logits, which need gigabytes for a large image.
    """
    with _postprocessing(inferencer.model, _find_labels) if is_segmentor(inferencer) else nullcontext():
        return _predict(inferencer, images)


def predict_logits(inferencer: BaseInferencer, images: Sequence[np.ndarray]) -> list[Tensor]:
    """Compute the logits of a segmentor, ``(classes, H, W)`` in each image's own pixels.

    Args:
        inferencer: From :func:`open_inferencer`.
        images: BGR, each ``(H, W, 3)``, of any sizes.

    Returns:
        The logits of each. A single class has two, of which the best is the label that its threshold gives.
    """
    with _postprocessing(inferencer.model, _keep_logits):
        return [sample.seg_logits.data for sample in _predict(inferencer, images)]


def _predict(inferencer: BaseInferencer, images: Sequence[np.ndarray]) -> list[BaseDataElement]:
    data = [inferencer.pipeline(widen(image)) for image in images]
    if is_segmentor(inferencer) or is_classifier(inferencer):  # which refuse a batch of several sizes
        groups = [list(group) for _, group in groupby(data, lambda item: item['inputs'].shape)]
    else:
        groups = [data] if data else []
    samples = [sample for group in groups for sample in inferencer.forward(inferencer.collate_fn(group))]
    for image, sample in zip(images, samples, strict=True):
        if sample.ori_shape[:2] != image.shape[:2]:
            _crop(sample, *image.shape[:2])
    return samples


def _crop(sample: BaseDataElement, height: int, width: int) -> None:
    """Reduce a prediction on a widened image to the image itself, at the top left."""
    sample.set_metainfo({'ori_shape': (height, width)})
    for name in {'pred_sem_seg', 'seg_logits'} & set(sample.keys()):
        setattr(sample, name, PixelData(data=sample.get(name).data[..., :height, :width]))
    if 'pred_instances' in sample:
        found = sample.pred_instances
        found.bboxes = found.bboxes.minimum(found.bboxes.new_tensor([width, height] * 2))
        if 'masks' in found:
            found.masks = found.masks[:, :height, :width]


@contextmanager
def _postprocessing(model: nn.Module, postprocess: Callable[..., Any]) -> Iterator[None]:
    """Let a segmentor do something else with the logits than MMSegmentation's ``postprocess_result``.

    Args:
        model: The segmentor.
        postprocess: Takes the model, the logits ``(N, C, h, w)`` of a batch and its data samples, to which it
            adds results in the pixels of the images.
    """
    model.postprocess_result = partial(postprocess, model)
    try:
        yield
    finally:
        del model.postprocess_result  # the class's own method is left


def _find_labels(
    model: nn.Module, logits: Tensor, samples: Sequence[BaseDataElement]
) -> Sequence[BaseDataElement]:
    """Resize the logits of a few classes at a time, with the same labels, and keep only these.

    All 150 classes of a photograph of 12 megapixels would need 7.2 GB.
    """
    flipped = any(sample.get('flip') for sample in samples)
    if flipped or logits.shape[1] == 1:  # not for prediction; a single class has a threshold instead
        return type(model).postprocess_result(model, logits, samples)
    for sample, small in zip(samples, _without_padding(logits, samples), strict=True):
        step = max(_GROUP // math.prod(sample.ori_shape[:2]), 1)
        groups = (_resized(model, group, sample)[0].max(0, keepdim=True) for group in small.split(step, 1))
        best, labels = next(groups)
        for i, (value, label) in enumerate(groups, 1):
            labels = torch.where(value > best, label + i * step, labels)
            best = best.maximum(value)
        sample.pred_sem_seg = PixelData(data=labels)
    return samples


def _keep_logits(
    model: nn.Module, logits: Tensor, samples: Sequence[BaseDataElement]
) -> Sequence[BaseDataElement]:
    """Resize the logits and keep them."""
    if logits.shape[1] == 1:
        background = torch.full_like(logits, model.decode_head.threshold).logit()
        logits = torch.cat([background, logits], 1)
    for sample, small in zip(samples, _without_padding(logits, samples), strict=True):
        sample.seg_logits = PixelData(data=_resized(model, small, sample)[0])
    return samples


def _without_padding(logits: Tensor, samples: Sequence[BaseDataElement]) -> Iterator[Tensor]:
    """The logits of each image, ``(1, C, h, w)``."""
    for sample, padded in zip(samples, logits.split(1), strict=True):
        left, right, top, bottom = sample.get('img_padding_size', sample.get('padding_size', [0] * 4))
        yield padded[..., top : padded.shape[2] - bottom, left : padded.shape[3] - right]


def _resized(model: nn.Module, logits: Tensor, sample: BaseDataElement) -> Tensor:
    """Logits ``(1, C, h, w)`` at the size of the image."""
    return F.interpolate(logits, sample.ori_shape[:2], mode='bilinear', align_corners=model.align_corners)


def _build(cfg: Config, device: str) -> BaseInferencer:
    """Build the toolbox's inferencer without weights."""
    scope = cfg.get('default_scope')
    if scope == 'mmdet':  # import only the toolbox in use, since the other may not be installed
        from mmdet.apis import DetInferencer as Inferencer
    elif scope == 'mmseg':
        from mmseg.apis import MMSegInferencer as Inferencer
    elif scope == 'mmpretrain':
        from .class_inferencer import ClassInferencer as Inferencer
    else:
        known = ', '.join(TOOLBOXES)
        raise UserError(f'{cfg.filename}: its default_scope is {scope}; only {known} are supported')
    if scope not in FUNCTIONS.children:  # MMEngine looks there for a collate function, and warns without it
        Registry('function', parent=FUNCTIONS, scope=scope, locations=['crossformer_mm'])
    with building(cfg), warnings.catch_warnings():
        warnings.filterwarnings('ignore', 'Checkpoint is not loaded|weights is None')
        inferencer = Inferencer(cfg, device=device)
    inferencer.show_progress = False  # not every version of MMSegInferencer takes it as an argument
    return inferencer


def _imagenet_classes(cfg: Config) -> Sequence[str]:
    """The classes of the released classifiers, which do not contain them; none for another toolbox."""
    if cfg.get('default_scope') != 'mmpretrain':
        return ()
    from mmpretrain.datasets.categories import IMAGENET_CATEGORIES

    return IMAGENET_CATEGORIES


def _num_classes(model: Any) -> int:
    """The number of classes of the first head in a model's config that has one; an RPN has none."""
    counts = []
    if isinstance(model, dict):
        own = [model.get('num_classes', things_and_stuff(model))]
        counts = own + [_num_classes(part) for name, part in model.items() if name != 'rpn_head']
    elif isinstance(model, list | tuple):
        counts = [_num_classes(part) for part in model]
    return next(filter(None, counts), 0)
