"""A small generated dataset in the layout of COCO, ADE20K or ImageNet: circles, rectangles and triangles.

The demos and the tests use it, because it needs no download and its ground truth is exact.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
from pycocotools import mask as coco_mask

CLASSES = ('circle', 'rectangle', 'triangle')
SPLITS = ('train2017', 'val2017')
ADE_SPLITS = ('training', 'validation')
FOLDER_SPLITS = ('train', 'val')
UNLABELLED = 0  # in label maps; the ground is 1, and the first of CLASSES is 2
Shape = tuple[int, np.ndarray]  # index in CLASSES, outline [points, 2]
_RADII = (0.09, 0.22)  # of shapes, as parts of the image's side
_LARGE = (0.35, 0.48)  # the same, of a shape that has the image for itself


def write_coco(root: str | Path, train: int = 64, val: int = 16, size: int = 192, seed: int = 0) -> None:
    """Write the dataset in COCO's layout.

    ``root`` gets ``train2017/``, ``val2017/`` and ``annotations/instances_{train,val}2017.json``.
    The same arguments write the same bytes; a larger number of images begins with the same ones.

    Args:
        root: Folder to write to, made if it is missing; files of the same names are overwritten.
        train: Number of training images.
        val: Number of validation images.
        size: Side of the square images, in pixels; objects grow with it.
        seed: Seed of the random generator.

    Raises:
        ValueError: A number below 1, or a size below 32.
    """
    _check_set(train, val, size)
    for split, (name, count) in enumerate(zip(SPLITS, (train, val), strict=True)):
        scenes = (draw_scene(np.random.default_rng([seed, split, i]), size) for i in range(count))
        _write_split(Path(root), name, scenes, size)


def write_ade20k(root: str | Path, train: int = 64, val: int = 16, size: int = 192, seed: int = 0) -> None:
    """Write the dataset in ADE20K's layout, with label maps.

    ``root`` gets ``images/{training,validation}/``, ``annotations/{training,validation}/`` and
    ``classes.txt``. The maps are for ``reduce_zero_label``: 0, unlabelled, on the outlines of shapes, 1 on
    the ground and 2 to 4 on shapes. The sizes of images vary, odd ones included.

    Args:
        root: Folder to write to, made if it is missing; files of the same names are overwritten.
        train: Number of training images.
        val: Number of validation images.
        size: The largest side in pixels; the smallest is four fifths of it.
        seed: Seed of the random generator.

    Raises:
        ValueError: A number below 1, or a size below 32.
    """
    _check_set(train, val, size)
    for split, (name, count) in enumerate(zip(ADE_SPLITS, (train, val), strict=True)):
        folders = [Path(root, kind, name) for kind in ('images', 'annotations')]
        for folder in folders:
            folder.mkdir(parents=True, exist_ok=True)
        for i in range(count):
            rng = np.random.default_rng([seed, split, i])
            image, shapes = draw_scene(rng, size)
            height, width = rng.integers(size * 4 // 5, size + 1, 2)
            labels = draw_labels(shapes, size)[:height, :width]
            _write_image(folders[0] / f'{i + 1:08}.jpg', image[:height, :width])
            cv2.imwrite(str(folders[1] / f'{i + 1:08}.png'), labels)
    Path(root, 'classes.txt').write_text('\n'.join(('ground', *CLASSES)) + '\n', encoding='utf-8')


def write_class_folders(
    root: str | Path, train: int = 6400, val: int = 192, size: int = 64, seed: int = 0
) -> None:
    """Write images of one large shape each, in one folder per class.

    ``root`` gets ``train/CLASS/`` and ``val/CLASS/`` for each of :data:`CLASSES`, which take turns.

    Args:
        root: Folder to write to, made if it is missing; files of the same names are overwritten.
        train: Number of training images of all classes.
        val: Number of validation images of all classes.
        size: Side of the square images, in pixels; shapes grow with it.
        seed: Seed of the random generator.

    Raises:
        ValueError: A number below 1, or a size below 32.
    """
    _check_set(train, val, size)
    for split, (name, count) in enumerate(zip(FOLDER_SPLITS, (train, val), strict=True)):
        for label in CLASSES:
            Path(root, name, label).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            rng = np.random.default_rng([seed, split, i])
            label = i % len(CLASSES)
            image, _ = _add_shapes(rng, _ground(rng, size), [label], _LARGE)
            _write_image(Path(root, name, CLASSES[label], f'{i + 1:08}.jpg'), image)


def draw_labels(shapes: Sequence[Shape], size: int) -> np.ndarray:
    """Draw the label map of a scene.

    Args:
        shapes: From :func:`draw_scene`.
        size: Side of the scene in pixels.

    Returns:
        ``(size, size)``, uint8: :data:`UNLABELLED` on outlines, 1 on the ground, then :data:`CLASSES`.
    """
    labels = np.ones((size, size), np.uint8)
    for label, outline in shapes:
        corners = [np.round(outline - 0.5).astype(np.int32)]
        cv2.fillPoly(labels, corners, label + 2)
        cv2.polylines(labels, corners, True, UNLABELLED)
    return labels


def draw_scene(rng: np.random.Generator, size: int) -> tuple[np.ndarray, list[Shape]]:
    """Draw one image with one to six shapes that do not touch each other.

    No shape hides a part of another, so each outline is the exact ground truth of its object.

    Args:
        rng: The random generator.
        size: Side of the image in pixels.

    Returns:
        The image ``(size, size, 3)`` in BGR, uint8; and for each shape its index in
        :data:`CLASSES` and its outline ``(points, 2)``, x and y in pixels from the image's corner.
    """
    image = _ground(rng, size)
    labels = (int(rng.integers(len(CLASSES))) for _ in range(rng.integers(1, 7)))
    return _add_shapes(rng, image, labels, _RADII)


def _add_shapes(
    rng: np.random.Generator, image: np.ndarray, labels: Iterable[int], radii: tuple[float, float]
) -> tuple[np.ndarray, list[Shape]]:
    """Add shapes that do not touch each other, where there is room for them, and noise; see draw_scene."""
    free = np.ones(image.shape[:2], np.uint8)
    shapes = []
    for label in labels:
        outline = _find_room(rng, label, free, radii)
        if outline is not None:
            _paint(image, outline, _bright_colour(rng))
            shapes.append((label, outline))
    noise = rng.normal(0, 8, image.shape)
    return np.clip(image + noise, 0, 255).astype(np.uint8), shapes


def _check_set(train: int, val: int, size: int) -> None:
    if train < 1 or val < 1:
        raise ValueError(f'train={train}, val={val}: at least one image of each is needed')
    if size < 32:
        raise ValueError(f'size={size}: below 32 pixels there is no room for the shapes')


def _ground(rng: np.random.Generator, size: int) -> np.ndarray:
    """Dull clouds of colour, ``(size, size, 3)`` in float32."""
    coarse = rng.uniform(40, 150, (6, 6, 3)).astype(np.float32)
    return cv2.resize(coarse, (size, size), interpolation=cv2.INTER_CUBIC)


def _bright_colour(rng: np.random.Generator) -> tuple[float, ...]:
    """A saturated BGR colour, which does not occur on the ground."""
    hsv = (rng.integers(180), rng.integers(170, 256), rng.integers(190, 256))
    return tuple(cv2.cvtColor(np.array([[hsv]], np.uint8), cv2.COLOR_HSV2BGR)[0, 0].tolist())


def _find_room(
    rng: np.random.Generator, label: int, free: np.ndarray, radii: tuple[float, float]
) -> np.ndarray | None:
    """Find room for a shape where ``free`` is 1, and mark it as taken, with a margin; None if there is none.

    The first shape always fits.
    """
    size = len(free)
    for _ in range(20):
        radius = rng.uniform(*radii) * size
        centre = rng.uniform(radius, size - radius, 2)
        outline = (centre + radius * _unit_outline(rng, label)).round(2)
        taken = np.zeros_like(free)
        cv2.fillPoly(taken, [np.round(outline - 0.5).astype(np.int32)], 1)
        taken = cv2.dilate(taken, np.ones((5, 5), np.uint8))
        if free[taken == 1].all():
            free[taken == 1] = 0
            return outline
    return None


def _unit_outline(rng: np.random.Generator, label: int) -> np.ndarray:
    """The corners of a slightly tilted shape in the unit circle, ``(points, 2)``."""
    if CLASSES[label] == 'circle':
        angles = np.linspace(0, 2 * np.pi, 48, endpoint=False)
    elif CLASSES[label] == 'rectangle':
        half = rng.uniform(0.45, 1.1)  # half the angle between a side's two corners
        angles = np.array([-half, half, np.pi - half, np.pi + half])
    else:
        thirds = np.arange(3) * 2 * np.pi / 3 - np.pi / 2  # the first corner on top
        angles = thirds + rng.uniform(-0.3, 0.3, 3)
    angles = angles + rng.uniform(-0.3, 0.3)
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)


def _paint(image: np.ndarray, outline: np.ndarray, colour: tuple[float, ...]) -> None:
    """Fill the outline with anti-aliased edges, drawn at eight times the size."""
    cover = np.zeros((len(image) * 8, len(image) * 8), np.float32)
    # OpenCV's own anti-aliasing spreads half a pixel beyond the outline; its corners are pixel centres.
    cv2.fillPoly(cover, [np.round(outline * 8 - 0.5).astype(np.int32)], 1)
    alpha = cv2.resize(cover, image.shape[:2], interpolation=cv2.INTER_AREA)[..., None]
    image[:] = image * (1 - alpha) + np.float32(colour) * alpha


def _write_split(root: Path, name: str, scenes: Iterator[tuple[np.ndarray, list[Shape]]], size: int) -> None:
    """Write one split's images, then its annotation file."""
    folder = root / name
    folder.mkdir(parents=True, exist_ok=True)
    images, annotations = [], []
    for image_id, (image, shapes) in enumerate(scenes, start=1):
        file_name = f'{image_id:012}.jpg'
        _write_image(folder / file_name, image)
        images.append({'id': image_id, 'file_name': file_name, 'height': size, 'width': size})
        for label, outline in shapes:
            record = _annotation(label, outline, size)
            annotations.append({'id': len(annotations) + 1, 'image_id': image_id, **record})
    categories = [
        {'id': i, 'name': name, 'supercategory': 'shape'} for i, name in enumerate(CLASSES, start=1)
    ]
    path = root / 'annotations' / f'instances_{name}.json'
    path.parent.mkdir(exist_ok=True)
    content = {'images': images, 'annotations': annotations, 'categories': categories}
    path.write_text(json.dumps(content), encoding='utf-8')


def _write_image(path: Path, image: np.ndarray) -> None:
    cv2.imwrite(str(path), image, [cv2.IMWRITE_JPEG_QUALITY, 95])


def _annotation(label: int, outline: np.ndarray, size: int) -> dict[str, object]:
    """One object in COCO's format, with the area of its mask and the box of its outline."""
    polygon = outline.ravel().tolist()
    low, high = outline.min(0), outline.max(0)
    return {
        'category_id': label + 1,
        'segmentation': [polygon],
        'area': float(coco_mask.area(coco_mask.frPyObjects([polygon], size, size))[0]),
        'bbox': [*low.tolist(), *(high - low).round(2).tolist()],
        'iscrowd': 0,
    }
