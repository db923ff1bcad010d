"""Evaluate an exported file as a toolbox's model, with the same data, metrics and pictures."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.model import BaseModel
from mmengine.structures import BaseDataElement, InstanceData, PixelData

from ..data.datasets import check_loading, trains_masks
from ..data.exif import ignores_exif
from ..data.images import read_image
from ..deploy.model import SUFFIX, OnnxModel
from ..deploy.predictions import Objects
from ..utils.errors import UserError

_TASKS = {'mmseg': 'semantic segmentation', 'mmpretrain': 'classification'}


class ExportedModel(BaseModel):
    """An exported file in the place of the model that a runner tests.

    Images are read from their files, since the file resizes them itself, and predictions are in their pixels.

    Args:
        file: The opened file.
        ignore_exif: Whether images are read without turning them as their EXIF data says.
    """

    def __init__(self, file: OnnxModel, ignore_exif: bool) -> None:
        super().__init__()
        self.file, self.ignore_exif = file, ignore_exif

    def test_step(self, data: dict[str, Any]) -> Sequence[BaseDataElement]:
        """Predict on a batch of a toolbox's data loader.

        Args:
            data: ``data_samples`` of the toolbox, which name the files; the prepared images are not used.

        Returns:
            The samples, with predictions.
        """
        samples = data['data_samples']
        images = [read_image(sample.img_path, self.ignore_exif) for sample in samples]
        for sample, image, found in zip(samples, images, self.file.predict(images), strict=True):
            _add(sample, image.shape[:2], found)
        return samples

    def summary(self) -> str:
        """A line for the log: what is tested."""
        file, (H, W) = self.file, self.file.size
        made = f'exported from {file.origin["checkpoint"]} in {file.origin["precision"]}'
        return f'the model was {made}, and resizes images itself ({file.preprocessing["resize"]}, {H}×{W})'

    def forward(self, *args: Any, **kwargs: Any) -> None:
        """Not available: an exported file only predicts."""
        raise NotImplementedError


def _add(sample: BaseDataElement, size: tuple[int, int], found: Objects | np.ndarray) -> None:
    """Add a prediction to a toolbox's data sample, of an image of the given height and width."""
    if isinstance(found, Objects):
        sample.pred_instances = InstanceData(
            bboxes=torch.from_numpy(found.boxes),
            scores=torch.from_numpy(found.scores),
            labels=torch.from_numpy(found.labels),
        )
        if found.masks is not None:
            masks = np.array(list(found.masks), bool).reshape(-1, *size)
            sample.pred_instances.masks = torch.from_numpy(masks)
    elif found.ndim == 2:
        sample.pred_sem_seg = PixelData(data=torch.from_numpy(found)[None].long())
    else:
        sample.set_pred_score(torch.from_numpy(found)).set_pred_label(int(found.argmax()))


def is_exported(options: argparse.Namespace) -> bool:
    """Whether ``crossformer test`` is given an exported file instead of a checkpoint."""
    return options.checkpoint.endswith(SUFFIX)


def open_exported(cfg: Config, options: argparse.Namespace) -> ExportedModel:
    """Open the exported file that ``crossformer test`` is to evaluate.

    Args:
        cfg: The config of the evaluation.
        options: The options of the command.

    Raises:
        UserError: The file cannot be read, is for another task than the config, or an option or the config's
            way to read images has no effect.
    """
    check_loading(cfg)
    path = Path(options.checkpoint)
    if options.tta:
        raise UserError(f'--tta: {path} is an exported file, which tests an image once; give its checkpoint')
    for setting in options.cfg_options or ():
        if setting.startswith('model.'):
            raise UserError(
                f'--cfg-options {setting}: has no effect on an exported file; export it with this setting'
            )
    file = OnnxModel(path)
    detects = 'instance segmentation' if trains_masks(cfg) else 'detection'
    task = _TASKS.get(cfg.get('default_scope'), detects)
    if file.task != task:
        raise UserError(
            f'{path}: is for {file.task}, {cfg.filename} for {task}; give the config of the export'
        )
    return ExportedModel(file, ignores_exif(cfg.test_dataloader))
