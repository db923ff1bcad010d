"""Predict on large images in overlapping tiles, each of which is an image of its own for the model."""

import math
import re
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from ..utils.errors import UserError, ran_out_of_memory
from .merging import merge_objects
from .predictions import Objects, Tile

OVERLAP = 0.2  # of two neighbouring tiles
_SMALLEST, _MOST = 32, 0.9  # side of a tile in pixels, overlap
_MOST_TILES = 100_000  # of an image: at a second for each, more than a day
_MEMORY = Path('/proc/meminfo')  # of Linux, which would end the process that uses more than there is


class TiledModel:
    """A model that predicts on images larger than a tile in tiles, and on smaller ones as before.

    The objects of all tiles are merged (:func:`crossformer_mm.deploy.merging.merge_objects`). The scores of
    segments are averaged where tiles overlap.

    Args:
        model: What predicts: an :class:`crossformer_mm.deploy.model.OnnxModel`, or a
            :class:`crossformer_mm.engine.toolbox_model.ToolboxModel`.
        side: Height and width of a tile, in pixels of the image.
        overlap: The share of a tile that the next one overlaps.
        batch: How many tiles are predicted at a time, if they fit into memory.
        score_thr: Objects of a lower score are left out before the others are merged.
        on_tile: Called after each batch with the numbers of finished and of all tiles of an image.

    Raises:
        UserError: The side or the overlap is out of range, or the model cannot predict in tiles.
    """

    def __init__(
        self,
        model: Any,
        side: int,
        overlap: float = OVERLAP,
        *,
        batch: int = 1,
        score_thr: float = 0.0,
        on_tile: Callable[[int, int], None] = lambda done, total: None,
    ) -> None:
        check_tiles(side, overlap)
        if model.task == 'classification':
            raise UserError('--tiles: a classifier needs the whole image; leave it out')
        self._segments = model.task == 'semantic segmentation'
        if self._segments and not hasattr(model, 'predict_scores'):
            raise UserError(
                '--tiles: an exported segmentor gives labels, but not the scores that are averaged where'
                ' tiles overlap; use --config and --checkpoint'
            )
        self._model, self._side, self._overlap = model, side, overlap
        self._batch, self._score_thr, self.on_tile = batch, score_thr, on_tile

    def __getattr__(self, name: str) -> Any:
        """The classes and other attributes of the model."""
        return getattr(self._model, name)

    def predict(self, images: Sequence[np.ndarray]) -> list[Objects | np.ndarray]:
        """Predict on images, BGR, each ``(H, W, 3)``, of any sizes, one after another."""
        return list(map(self._predict, images))

    def _predict(self, image: np.ndarray) -> Objects | np.ndarray:
        size = image.shape[:2]
        tiles = grid(size, self._side, self._overlap)
        if len(tiles) == 1:
            return self._model.predict([image])[0]
        if self._segments:
            return _best_classes(size, tiles, self._of_tiles(self._model.predict_scores, image, tiles))
        found = self._of_tiles(self._model.predict, image, tiles)
        return merge_objects(size, tiles, found, self._score_thr)

    def _of_tiles(
        self, predict: Callable[[Sequence[np.ndarray]], list], image: np.ndarray, tiles: Sequence[Tile]
    ) -> Iterator[Any]:
        """Predict on the tiles of an image in batches."""
        self.on_tile(0, len(tiles))
        for start in range(0, len(tiles), self._batch):
            batch = [np.ascontiguousarray(image[tile]) for tile in tiles[start : start + self._batch]]
            yield from _in_memory(predict, batch)
            self.on_tile(start + len(batch), len(tiles))


def check_tiles(side: int, overlap: float) -> None:
    """Check the side of tiles and their overlap.

    Raises:
        UserError: One is out of range.
    """
    if side < _SMALLEST:
        raise UserError(f'--tiles {side}: tiles have at least {_SMALLEST} pixels per side')
    if not 0 <= overlap <= _MOST:
        raise UserError(f'--overlap {overlap:g}: must be between 0 and {_MOST:g}, a share of a tile')


def grid(size: tuple[int, int], side: int, overlap: float) -> list[Tile]:
    """Cover an image with tiles, as MMSegmentation's sliding window does.

    Args:
        size: Height and width of the image.
        side: Height and width of a tile.
        overlap: The share of a tile that the next one overlaps; the last ones overlap more, so that they end
            with the image.

    Returns:
        Rows and columns of each tile, row by row; smaller ones only if the image is smaller.

    Raises:
        UserError: There are too many to wait for.
    """
    stride = max(round(side * (1 - overlap)), 1)
    rows, columns = (
        [
            slice(max(min(start, length - side), 0), min(start + side, length))
            for start in range(0, max(length - side, 0) + stride, stride)
        ]
        for length in size
    )
    count = len(rows) * len(columns)
    if count > _MOST_TILES:
        raise UserError(
            f'--tiles {side}: {count} tiles in an image of {size[1]}×{size[0]} pixels; take larger tiles or a'
            ' smaller --overlap'
        )
    return [(row, column) for row in rows for column in columns]


def _in_memory(predict: Callable[[Sequence[np.ndarray]], list], batch: Sequence[np.ndarray]) -> list[Any]:
    """Predict on a batch, or on each image alone if the batch does not fit into memory."""
    try:
        return predict(batch)
    except Exception as error:  # torch, onnxruntime and numpy raise different ones
        if len(batch) == 1 or not ran_out_of_memory(error):
            raise
    return [found for image in batch for found in predict([image])]


def _best_classes(size: tuple[int, int], tiles: Sequence[Tile], found: Iterator[np.ndarray]) -> np.ndarray:
    """Add the scores of tiles, and find the best class of each pixel.

    Only as many rows of sums as a tile has are in memory at a time.

    Args:
        size: Height and width of the image.
        tiles: From :func:`grid`.
        found: The scores of each, ``(classes, h, w)``.

    Returns:
        The label map, ``(H, W)``.
    """
    labels, sums, top = None, None, 0
    for rows, row in groupby(zip(tiles, found, strict=True), lambda pair: pair[0][0]):
        for (_, columns), scores in row:
            if sums is None:
                shape = (len(scores), len(scores[0]), size[1])
                _check_memory(4 * math.prod(shape))
                sums = np.zeros(shape, np.float32)
                labels = np.empty(size, np.min_scalar_type(len(scores)))
            if rows.start > top:  # what is above these tiles is complete
                _take_best(sums, labels[top : rows.start])
                top = rows.start
            sums[:, :, columns] += scores
    _take_best(sums, labels[top:])
    return labels


def _check_memory(needed: int) -> None:
    """Raise a MemoryError if fewer bytes are available: NumPy would get more of them than it can use."""
    found = re.search(r'^MemAvailable: +(\d+) kB', _MEMORY.read_text() if _MEMORY.exists() else '', re.M)
    if found and needed > 1024 * int(found[1]):
        raise MemoryError


def _take_best(sums: np.ndarray, labels: np.ndarray) -> None:
    """Find the labels of the first rows, and move the sums of the others up."""
    count = len(labels)
    for row, best in enumerate(labels):  # numpy would copy all sums for all rows at once
        best[:] = sums[:, row].argmax(0)
    for plane in sums:
        plane[:-count] = plane[count:].copy()
        plane[-count:] = 0
