"""Prediction from Python: the toolboxes' inferencers, with safe and strict loading of the weights."""

import warnings
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.infer import BaseInferencer
from mmengine.registry import FUNCTIONS, Registry
from mmengine.structures import BaseDataElement

from ..checkpoint.load import load_model
from ..checkpoint.meta import dataset_meta_of
from ..checkpoint.reader import open_checkpoint
from ..data.datasets import building, dataset_meta, palette, set_num_classes, without_annotations
from ..utils.errors import UserError
from .config import load_config
from .mixed_precision import keep_boxes_in_float32
from .runner import escape_drawn_names


def open_inferencer(
    config: str | Path,
    checkpoint: str | Path,
    device: str | None = None,
    bf16: bool = False,
    cfg_options: Sequence[str] = (),
) -> BaseInferencer:
    """Open MMDetection's ``DetInferencer`` or MMSegmentation's ``MMSegInferencer``, depending on the config.

    The weights are read without running any code in them, and every tensor must match the model. The number
    of classes and their names come from the checkpoint, so that the config need not match its data.

    Args:
        config: A config file.
        checkpoint: A checkpoint of the complete model.
        device: Such as ``'cpu'`` or ``'cuda:1'``; by default a GPU, if there is one.
        bf16: Compute in bfloat16 autocast; boxes stay in float32.
        cfg_options: Settings to change in the config, as ``KEY=VALUE``.

    Returns:
        The inferencer; its toolbox's documentation says how to call it.

    Raises:
        UserError: The config or the checkpoint is invalid, they do not fit, or the device is not available.
    """
    device = check_device(device)
    cfg = load_config(config, cfg_options)
    dataset = (cfg.get('test_dataloader') or {}).get('dataset', {})
    if not isinstance(cfg.get('model'), dict) or not dataset.get('pipeline'):
        raise UserError(f'{config}: has no model and test pipeline to predict with; give a complete config')
    checkpoint = open_checkpoint(checkpoint)
    meta = _dataset_meta(cfg, checkpoint)
    set_num_classes(cfg.model, len(meta['classes']))
    dataset.pipeline = without_annotations(dataset.pipeline)
    if cfg.get('visualizer'):
        cfg.visualizer.vis_backends = None  # they need a work folder
    inferencer = _build(cfg, device)
    load_model(inferencer.model, checkpoint)
    inferencer.model.dataset_meta = inferencer.visualizer.dataset_meta = meta
    if not is_segmentor(inferencer):  # which draws with OpenCV
        escape_drawn_names(inferencer.visualizer)
    if bf16:
        keep_boxes_in_float32(inferencer.model)
        autocast = torch.autocast(torch.device(device).type, torch.bfloat16)
        inferencer.forward = autocast(inferencer.forward)
    return inferencer


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


def predict(inferencer: BaseInferencer, images: Sequence[np.ndarray]) -> list[BaseDataElement]:
    """Predict on a batch.

    Args:
        inferencer: From :func:`open_inferencer`.
        images: BGR, each ``(H, W, 3)``, of any sizes. A detector processes them in one batch, a segmentor in
            batches of consecutive images that have the same size after the pipeline.

    Returns:
        The toolbox's data sample of each image, in the image's own pixels.
    """
    data = [inferencer.pipeline(image) for image in images]
    groups = [data] if data else []
    if is_segmentor(inferencer):  # MMSegmentation refuses a batch of several sizes
        groups = [list(group) for _, group in groupby(data, lambda item: item['inputs'].shape)]
    return [sample for group in groups for sample in inferencer.forward(inferencer.collate_fn(group))]


def _build(cfg: Config, device: str) -> BaseInferencer:
    """Build the toolbox's inferencer without weights."""
    scope = cfg.get('default_scope')
    if scope == 'mmdet':  # import only the toolbox in use, since the other may not be installed
        from mmdet.apis import DetInferencer as Inferencer
    elif scope == 'mmseg':
        from mmseg.apis import MMSegInferencer as Inferencer
    else:
        raise UserError(f'{cfg.filename}: its default_scope is {scope}; only mmdet and mmseg are supported')
    if scope not in FUNCTIONS.children:  # MMEngine looks there for a collate function, and warns without it
        Registry('function', parent=FUNCTIONS, scope=scope, locations=['crossformer_mm'])
    with building(cfg), warnings.catch_warnings():
        warnings.filterwarnings('ignore', 'Checkpoint is not loaded|weights is None')
        inferencer = Inferencer(cfg, device=device)
    inferencer.show_progress = False  # not every version of MMSegInferencer takes it as an argument
    return inferencer


def _dataset_meta(cfg: Config, checkpoint: dict[str, Any]) -> dict[str, Any]:
    """Class names and colours from the checkpoint, or else from the config, or else numbered classes."""
    meta = dataset_meta_of(checkpoint)
    classes = meta.get('classes')
    if classes is None:
        count = _num_classes(cfg.model)
        named = dataset_meta(cfg, cfg.test_dataloader.dataset).get('classes', ())
        classes = named if len(named) == count else tuple(f'class {i}' for i in range(count))
    colours = meta.get('palette') or []
    return {'classes': classes, 'palette': colours if len(colours) >= len(classes) else palette(len(classes))}


def _num_classes(model: Any) -> int:
    """The number of classes of the first head in a model's config that has one; an RPN has none."""
    counts = []
    if isinstance(model, dict):
        own = [model['num_classes']] if 'num_classes' in model else []
        counts = own + [_num_classes(part) for name, part in model.items() if name != 'rpn_head']
    elif isinstance(model, list | tuple):
        counts = [_num_classes(part) for part in model]
    return next(filter(None, counts), 0)
