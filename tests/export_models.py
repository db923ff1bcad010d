"""Narrow models with random weights, their exported files, and images for them."""

from pathlib import Path

import numpy as np
import torch
from mmengine.config import Config
from mmengine.model import BaseModel
from torch.nn.modules.batchnorm import _BatchNorm

from crossformer_mm.deploy.model import OnnxModel
from crossformer_mm.engine.flops import build_model
from crossformer_mm.export.graphs import graph_of
from crossformer_mm.export.onnx_file import trace, write_onnx
from crossformer_mm.plugins import register_toolbox

SHAPES = [(70, 90), (120, 64), (64, 64)]  # of IMAGES


def image_of(height: int, width: int) -> np.ndarray:
    """A smooth image of noise, BGR."""
    cells = np.random.default_rng(height).integers(0, 256, (-(-height // 8), -(-width // 8), 3), np.uint8)
    return cells.repeat(8, 0).repeat(8, 1)[:height, :width].copy()


IMAGES = [image_of(*shape) for shape in SHAPES]


def random_model(cfg: Config) -> BaseModel:
    """A config's model in evaluation mode, with random weights and statistics of BN."""
    register_toolbox(cfg.default_scope)
    torch.manual_seed(0)
    model = build_model(cfg)
    for part in model.modules():
        if isinstance(part, _BatchNorm):
            part.running_mean.normal_(0, 0.1)
            part.running_var.uniform_(0.5, 1.5)
    return model


def exported(
    model: BaseModel,
    path: Path,
    size: tuple[int, int],
    resize: str = 'fit',
    *,
    backbone: bool = False,
    batch: int | None = 1,
) -> OnnxModel:
    """Export a model to a file, to which images are resized in one way, and open it."""
    graph = graph_of(model, backbone)
    how = {'resize': resize, 'interpolation': 'bilinear', 'library': 'opencv', 'ignore_exif': False}
    metadata = {'classes': ['a class'], 'palette': [[1, 2, 3]], 'preprocessing': how, 'origin': {}}
    write_onnx(trace(graph, size, batch), {'task': graph.task, **metadata}, path)
    return OnnxModel(path, threads=1)
