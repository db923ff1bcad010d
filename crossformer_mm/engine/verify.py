"""Try a converted checkpoint in the model that it is for."""

from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.structures import BaseDataElement
from torch import nn

from ..checkpoint.load import load_backbone, load_model
from ..data.datasets import build_network
from ..utils.errors import UserError
from .config import load_config

IMAGE_SIZE = (128, 160)  # height, width


def verify(path: Path, kind: str, config: str | Path) -> str:
    """Load a checkpoint strictly into a config's model, and run an image of noise through it.

    Args:
        path: The checkpoint.
        kind: 'backbone' loads it into the model's backbone alone.
        config: A config file.

    Returns:
        What was done, in a line.

    Raises:
        UserError: The config has no such model, the tensors do not fit, or the outputs are not finite.
    """
    cfg = load_config(config)
    model = _build(cfg).eval()
    image = torch.randint(256, (3, *IMAGE_SIZE), generator=torch.Generator().manual_seed(0))
    image = image.to(torch.uint8)
    if kind == 'backbone':
        load_backbone(model.backbone, path)
        outputs = _features(model, image)
    else:
        load_model(model, path)
        outputs = [*_features(model, image), *_predictions(model, image)]
    if not all(torch.isfinite(output).all() for output in outputs):
        raise UserError('its outputs are not finite: the weights are no good')
    size = '×'.join(map(str, IMAGE_SIZE))
    return f'loads strictly in {config}, a {size} image gives {len(outputs)} finite outputs'


def _build(cfg: Config) -> nn.Module:
    init_default_scope(cfg.get('default_scope', 'mmengine'))
    if not isinstance(cfg.get('model'), dict):
        raise UserError(f'{cfg.filename} has no model to verify in')
    return build_network(cfg, cfg.model)


@torch.no_grad()
def _features(model: nn.Module, image: torch.Tensor) -> tuple[torch.Tensor, ...]:
    batch = model.data_preprocessor({'inputs': [image]})['inputs']
    return model.backbone(batch)


@torch.no_grad()
def _predictions(model: nn.Module, image: torch.Tensor) -> list[torch.Tensor]:
    """The numbers of what the model predicts: boxes and scores, or logits."""
    size = {'img_shape': IMAGE_SIZE, 'ori_shape': IMAGE_SIZE, 'scale_factor': (1.0, 1.0)}
    samples = model.test_step({'inputs': [image], 'data_samples': [BaseDataElement(metainfo=size)]})
    values = [value for part in samples[0].values() for value in part.values()]
    return [v for v in values if isinstance(v, torch.Tensor) and v.is_floating_point()]
