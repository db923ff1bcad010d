"""Send a training to TensorBoard, Weights & Biases or MLflow, with pictures of predictions."""

from collections.abc import Sequence
from typing import Any

from mmengine.dist import master_only
from mmengine.hooks import Hook
from mmengine.runner import Runner

from ...data.exif import ignores_exif
from ...evaluation.picture_hooks import lowest_score, sample_picture
from ..backends import SERVICES, TrainingBackend, finished_iterations

_PICTURES = 4  # of each validation


class TrackingHook(Hook):
    """Starts the services of a training, and sends them the first validation images at each validation."""

    priority = 'HIGHEST'  # a service that refuses stops the run before it counts as started

    def __init__(self) -> None:
        self._backends: list[TrainingBackend] = []
        self._drawn = 0

    @master_only
    def before_train(self, runner: Runner) -> None:
        """Start the services."""
        found = (runner.visualizer.get_backend(kind.__name__) for kind in SERVICES.values())
        self._backends = [backend for backend in found if backend]
        for backend in self._backends:
            backend.start(runner)

    def before_val_epoch(self, runner: Runner) -> None:
        """Begin with the first image."""
        self._drawn = 0

    @master_only
    def after_val_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Sequence[Any] | None = None
    ) -> None:
        """Draw the first images, ground truth and prediction; in a distributed run, of the first process."""
        meta, ignore_exif = runner.val_dataloader.dataset.metainfo, ignores_exif(runner.cfg.val_dataloader)
        for sample in outputs[: _PICTURES - self._drawn] if self._backends else ():
            self._drawn += 1
            picture = sample_picture(sample, meta, ignore_exif, lowest_score(runner.cfg))
            for backend in self._backends:
                backend.add_image(f'predictions/{self._drawn}', picture, finished_iterations())
