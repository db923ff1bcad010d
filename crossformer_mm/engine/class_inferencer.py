"""MMPretrain's inferencer for classifiers, used like those of the other toolboxes."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from mmengine.config import Config

from .. import mmpretrain_parts  # noqa: F401, before other modules of MMPretrain

# isort: split
from mmengine.dataset import default_collate
from mmpretrain.apis import ImageClassificationInferencer

from ..data.exif import ignores_exif
from ..data.images import read_image
from ..deploy.prepare import widen


class ClassInferencer(ImageClassificationInferencer):
    """Classifies images that are read as in the other commands.

    Args:
        cfg: The config.
        device: The torch device.
    """

    scope = 'mmpretrain'
    collate_fn = staticmethod(default_collate)

    def __init__(self, cfg: Config, device: str) -> None:
        self.cfg = cfg
        super().__init__(cfg, pretrained=False, device=device)

    def _init_pipeline(self, cfg: Config) -> Callable[[np.ndarray], dict[str, Any]]:
        steps = super()._init_pipeline(cfg)

        def prepare(image: np.ndarray) -> dict[str, Any]:
            image = widen(image)
            return steps(dict(img=image, img_shape=image.shape[:2], ori_shape=image.shape[:2]))

        return prepare

    def preprocess(self, inputs: Sequence[Any], batch_size: int = 1) -> Iterator[Any]:
        """Read and prepare images.

        Args:
            inputs: Paths, or arrays (BGR, ``(H, W, 3)``).
            batch_size: Images per batch.

        Yields:
            The batches.
        """
        exif = ignores_exif(self.cfg)
        images = (item if isinstance(item, np.ndarray) else read_image(item, exif) for item in inputs)
        yield from map(self.collate_fn, self._get_chunk_data(map(self.pipeline, images), batch_size))
