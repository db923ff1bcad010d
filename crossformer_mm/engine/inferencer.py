"""The inferencers of MMDetection and MMSegmentation, for this project's configs and any checkpoint."""

from collections.abc import Callable, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.device import get_device
from mmengine.infer import BaseInferencer
from mmengine.structures import BaseDataElement
from torch import nn

from ..checkpoint import load_model, read_checkpoint
from ..checkpoint.meta import dataset_meta_of
from ..data.datasets import building, dataset_meta, palette, set_num_classes, without_annotations
from ..utils.errors import UserError
from .config import load_config
from .mixed_precision import keep_boxes_in_float32


class StrictWeights:
    """Mixed into a toolbox's inferencer, which by itself loads what happens to fit, and runs pickles.

    Args:
        cfg: The config, with a test pipeline.
        checkpoint: The weights.
        meta: ``classes`` and ``palette``.
        bf16: Compute in bfloat16 autocast.
        **options: Of the toolbox's inferencer.
    """

    def __init__(
        self, cfg: Config, checkpoint: str | Path, meta: dict[str, Any], bf16: bool, **options: Any
    ) -> None:
        self.checkpoint = checkpoint
        self.meta = meta
        self.bf16 = bf16
        super().__init__(model=cfg, weights=None, **options)

    def _load_weights_to_model(self, model: nn.Module, checkpoint: None, cfg: Config) -> None:
        """Called by the inferencer, which was given no weights and so has read no file."""
        load_model(model, self.checkpoint)
        model.dataset_meta = self.meta
        if self.bf16:
            keep_boxes_in_float32(model)

    def _init_collate(self, cfg: Config) -> Callable:
        """The default without MMEngine's search for it in a registry that the toolboxes lack, and warning."""
        return super()._init_collate(cfg) if 'collate_fn' in cfg.test_dataloader else pseudo_collate

    def forward(self, inputs: dict[str, Any], **options: Any) -> list[BaseDataElement]:
        """A batch from the pipeline to data samples."""
        kind = next(self.model.parameters()).device.type
        with torch.autocast(kind, torch.bfloat16, enabled=self.bf16):
            return super().forward(inputs, **options)


def open_inferencer(
    config: str | Path,
    checkpoint: str | Path,
    device: str | None = None,
    bf16: bool = False,
    cfg_options: Sequence[str] = (),
) -> BaseInferencer:
    """Open MMDetection's ``DetInferencer`` or MMSegmentation's ``MMSegInferencer``, as the config asks.

    The weights are read without running any code in them and must fit to the last tensor. The number of
    classes and their names are the checkpoint's: one trained on other data needs no other config.

    Args:
        config: A config file.
        checkpoint: A checkpoint of the whole model.
        device: Such as ``'cpu'`` or ``'cuda:1'``; a GPU if there is one, by default.
        bf16: Compute in bfloat16 autocast; boxes stay in float32.
        cfg_options: Settings to change in the config, as ``KEY=VALUE``.

    Returns:
        The inferencer: call it with images, see its toolbox's documentation.

    Raises:
        UserError: The config or the checkpoint does not work, they do not fit, or there is no such device.
    """
    device = check_device(device)
    cfg = load_config(config, cfg_options)
    dataset = (cfg.get('test_dataloader') or {}).get('dataset', {})
    if not isinstance(cfg.get('model'), dict) or not dataset.get('pipeline'):
        raise UserError(f'{config}: has no model and test pipeline to predict with; give a whole config')
    base = _inferencer_class(cfg)
    meta = _dataset_meta(cfg, read_checkpoint(checkpoint, mmap=True))
    set_num_classes(cfg.model, len(meta['classes']))
    dataset.pipeline = without_annotations(dataset.pipeline)
    if cfg.get('visualizer'):
        cfg.visualizer.vis_backends = None  # which need a run's folder
    kind = type(base.__name__, (StrictWeights, base), {'__doc__': base.__doc__})
    with building(cfg):
        inferencer = kind(cfg, checkpoint, meta, bf16, device=device)
    inferencer.show_progress = False  # which not every version of MMSegInferencer takes as an argument
    return inferencer


def check_device(device: str | None) -> str:
    """Check that a device is there.

    Args:
        device: As torch calls it, or None.

    Returns:
        The device, or the best there is.

    Raises:
        UserError: There is no such device.
    """
    counts = {'cpu': 1, 'cuda': torch.cuda.device_count(), 'mps': int(torch.backends.mps.is_available())}
    there = [f'{kind}:{i}' if kind == 'cuda' else kind for kind, n in counts.items() for i in range(n)]
    try:
        wanted = torch.device(device or get_device())
    except RuntimeError:
        wanted = None
    if wanted is None or (wanted.index or 0) >= counts.get(wanted.type, 0):
        raise UserError(f'--device {device}: not available here; there is {", ".join(there)}')
    return str(wanted)


def is_segmentor(inferencer: BaseInferencer) -> bool:
    """Whether it gives a class to each pixel, rather than boxes."""
    return inferencer.scope == 'mmseg'


def predict(inferencer: BaseInferencer, images: Sequence[np.ndarray]) -> list[BaseDataElement]:
    """Predict on a batch.

    Args:
        inferencer: From :func:`open_inferencer`.
        images: BGR, each ``(H, W, 3)`` of its own size. A detector takes them in one batch, a segmentor
            those in a row that are of one size after the pipeline.

    Returns:
        The toolbox's data samples, one an image, in the images' own pixels.
    """
    data = [inferencer.pipeline(image) for image in images]
    groups = [data]
    if is_segmentor(inferencer):  # MMSegmentation stops at a batch of several sizes
        groups = [list(group) for _, group in groupby(data, lambda item: item['inputs'].shape)]
    return [sample for group in groups for sample in inferencer.forward(inferencer.collate_fn(group))]


def _inferencer_class(cfg: Config) -> type[BaseInferencer]:
    """Only the toolbox that is needed is imported: the other may be absent."""
    scope = cfg.get('default_scope')
    if scope == 'mmdet':
        from mmdet.apis import DetInferencer

        return DetInferencer
    if scope == 'mmseg':
        from mmseg.apis import MMSegInferencer

        return MMSegInferencer
    raise UserError(f'{cfg.filename}: its default_scope is {scope}; only mmdet and mmseg can predict here')


def _dataset_meta(cfg: Config, checkpoint: dict[str, Any]) -> dict[str, Any]:
    """Names and colours from the checkpoint, from the config without those, and numbers without either."""
    meta = dataset_meta_of(checkpoint)
    classes = meta.get('classes')
    if classes is None:
        count = _num_classes(cfg.model)
        named = dataset_meta(cfg, cfg.test_dataloader.dataset).get('classes', ())
        classes = named if len(named) == count else tuple(f'class {i}' for i in range(count))
    colours = meta.get('palette') or []
    return {'classes': classes, 'palette': colours if len(colours) >= len(classes) else palette(len(classes))}


def _num_classes(model: Any) -> int:
    """Of the first head in a model's config that has them; an RPN's are not classes."""
    counts = []
    if isinstance(model, dict):
        own = [model['num_classes']] if 'num_classes' in model else []
        counts = own + [_num_classes(part) for name, part in model.items() if name != 'rpn_head']
    elif isinstance(model, list | tuple):
        counts = [_num_classes(part) for part in model]
    return next(filter(None, counts), 0)
