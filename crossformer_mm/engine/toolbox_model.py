"""A toolbox's model, as ``crossformer infer`` runs it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.structures import BaseDataElement

from ..data.exif import ignores_exif
from ..deploy.predictions import Objects
from ..evaluation.samples import label_array, predicted_objects, score_array
from .inferencer import is_classifier, is_segmentor, open_inferencer, predict, predict_logits


class ToolboxModel:
    """Predicts with PyTorch what :class:`crossformer_mm.deploy.model.OnnxModel` predicts without it.

    Args:
        config: A config file.
        checkpoint: A checkpoint of the complete model.
        **settings: Other arguments of :func:`crossformer_mm.engine.inferencer.open_inferencer`.

    Raises:
        UserError: The model cannot be opened.
    """

    def __init__(self, config: str | Path, checkpoint: str | Path, **settings: Any) -> None:
        self._inferencer = open_inferencer(config, checkpoint, **settings)
        self.origin = {'config': config, 'checkpoint': checkpoint}
        self.ignore_exif = ignores_exif(self._inferencer.cfg)
        meta = self._inferencer.model.dataset_meta
        self.classes, self.palette = list(meta['classes']), meta['palette']
        self.task, self._read = 'detection', predicted_objects
        if is_segmentor(self._inferencer):
            self.task, self._read = 'semantic segmentation', _label_map
        elif is_classifier(self._inferencer):
            self.task, self._read = 'classification', _class_scores

    def predict(self, images: Sequence[np.ndarray]) -> list[Objects | np.ndarray]:
        """Predict on images, BGR, each ``(H, W, 3)``, of any sizes, in one batch."""
        return list(map(self._read, predict(self._inferencer, images)))

    def predict_scores(self, images: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Predict the scores of a segmentor's classes, of which the best is the label, each ``(C, H, W)``."""
        return [logits.float().cpu().numpy() for logits in predict_logits(self._inferencer, images)]


def _label_map(sample: BaseDataElement) -> np.ndarray:
    return label_array(sample.pred_sem_seg.data)


def _class_scores(sample: BaseDataElement) -> np.ndarray:
    return score_array(sample.pred_score)
