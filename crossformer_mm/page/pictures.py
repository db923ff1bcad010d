"""Pictures of images with ground truth and prediction, for a page."""

import base64
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from pycocotools import mask as coco_mask

from ..data.coco_masks import mask_fault
from ..data.images import NoImageError, read_image
from ..data.label_check import LabelRule
from ..data.label_files import read_label_map
from ..evaluation.segmentation_pictures import TINT
from ..utils.errors import UserError
from ..utils.text import short_name
from .html import COLOURS, Html, element, join
from .image_scores import SIDE, Outline, ShownImage, outlines, small_map

_QUALITY = 80  # of JPEG
_NAMED = 8  # classes in the legend of a label map
_NUMBERS = itertools.count()  # of the images of all pages
Overlay = Sequence[Outline] | np.ndarray | None


class Album:
    """Makes the pictures of a page.

    Args:
        classes: The class names.
        colours: RGB of each class in label maps, 0 to 255.
        ignore_exif: Whether images are not turned as their EXIF data says.
    """

    def __init__(
        self, classes: Sequence[str], colours: Sequence[Sequence[int]], ignore_exif: bool = False
    ) -> None:
        self.classes = classes
        self.colours = colours
        self.ignore_exif = ignore_exif

    def compared(self, image: ShownImage) -> Html:
        """An image with its ground truth and its prediction."""
        score = f'{image.score:.3f}'
        if isinstance(image.truth, int):
            found = [f'{self._name(label)} {score:.2f}' for label, score in image.found]
            text = (
                f'score {score}: {self._name(image.truth)}; predicted: {", ".join(found) or "nothing (NaN)"}'
            )
            return self._figure(image.path, text, None)
        text = f'score {score}; left: ground truth, right: prediction'
        return self._figure(image.path, text, image.truth, image.found)

    def sample(self, info: Mapping[str, Any]) -> Html:
        """An image of a dataset with its ground truth.

        Args:
            info: What the dataset knows of it.
        """
        truth, text = None, ''
        if 'instances' in info:
            size = info['height'], info['width']
            truth = [_annotated(item, *size) for item in info['instances'] if not item.get('ignore_flag')]
        elif 'seg_map_path' in info:
            rule = LabelRule(
                tuple(self.classes), info.get('reduce_zero_label', False), info.get('label_map') or {}
            )
            try:
                truth = small_map(rule.labels_in(read_label_map(Path(info['seg_map_path']))))
            except (UserError, OSError) as error:
                text = str(error)
        else:
            labels = info['gt_label']
            labels = labels if isinstance(labels, list | tuple) else [labels]
            text = ', '.join(self._name(int(label)) for label in labels)
        return self._figure(info['img_path'], text, truth)

    def _name(self, label: int) -> str:
        return short_name(self.classes[label]) if 0 <= label < len(self.classes) else str(label)

    def _figure(self, path: str, text: str, *overlays: Overlay) -> Html:
        """The same image once for each overlay, side by side; a note if it cannot be read."""
        try:
            image = read_image(path, self.ignore_exif)
        except (NoImageError, OSError) as error:
            return element('figure', element('figcaption', f'{path} {error}'))
        scale = min(1, SIDE / max(image.shape))
        size = [max(1, round(side * scale)) for side in image.shape[1::-1]]
        data = cv2.imencode(
            '.jpg',
            cv2.resize(image, size, interpolation=cv2.INTER_AREA),
            [cv2.IMWRITE_JPEG_QUALITY, _QUALITY],
        )[1]
        name = f'p{next(_NUMBERS)}'
        back = element('image', href=_uri('jpeg', data), id=name, width=size[0], height=size[1])
        pictures = []
        for drawn in overlays:
            over = (
                self._tint(drawn, size) if isinstance(drawn, np.ndarray) else self._draw(drawn, size, scale)
            )
            pictures.append(element('svg', back, over, viewBox=f'0 0 {size[0]} {size[1]}', role='img'))
            back = element('use', href=f'#{name}')  # the file has the image once
        pair = element('div', *pictures, class_='pair') if len(pictures) > 1 else pictures[0]
        caption = element('figcaption', text, self._legend(overlays))
        return element('figure', pair, caption, title=path)

    def _tint(self, labels: np.ndarray, size: Sequence[int]) -> Html:
        """Class colours over the image; ignored pixels are black."""
        colours = np.array([*self.colours[: len(self.classes)], (0, 0, 0)], np.uint8)
        data = cv2.imencode('.png', colours[np.minimum(labels, len(colours) - 1)][..., ::-1])[1]
        return element(
            'image',
            href=_uri('png', data),
            width=size[0],
            height=size[1],
            opacity=TINT,
            preserveAspectRatio='none',
        )

    def _draw(self, objects: Sequence[Outline] | None, size: Sequence[int], scale: float) -> Html:
        line, letters = max(1, max(size) / 256), max(size) / 26
        style = f'font-size:{letters:.1f}px;stroke-width:{letters / 5:.1f}'
        parts = []
        for item in objects or ():
            number = item.label % COLOURS
            for shape in item.shapes:
                points = ' '.join(f'{x * scale:.1f},{y * scale:.1f}' for x, y in shape)
                names = f'shape c{number} f{number}'
                parts.append(element('polygon', points=points, class_=names, stroke_width=line / 2))
            left, top, right, low = (value * scale for value in item.box)
            place = {'x': left, 'y': top, 'width': max(right - left, 0), 'height': max(low - top, 0)}
            place = {key: f'{value:.1f}' for key, value in place.items()}
            parts.append(element('rect', **place, class_=f'box c{number}', stroke_width=line))
            text = self._name(item.label) + ('' if item.score is None else f' {item.score:.2f}')
            base = max(top - letters / 4, letters)
            parts.append(element('text', text, x=place['x'], y=f'{base:.1f}', class_='tag', style=style))
        return join(parts)

    def _legend(self, overlays: Sequence[Overlay]) -> Html:
        """The names of the most frequent classes in label maps."""
        maps = [labels.ravel() for labels in overlays if isinstance(labels, np.ndarray)]
        if not maps:
            return Html()
        counts = np.bincount(np.concatenate(maps))[: len(self.classes)]
        order = [label for label in np.argsort(-counts, kind='stable')[:_NAMED].tolist() if counts[label]]
        known = {self._name(label): self.colours[label] for label in order}
        if counts.sum() < sum(map(len, maps)):
            known['ignored'] = (0, 0, 0)
        keys = [
            element(
                'span',
                element('i', style=f'background:rgb({",".join(map(str, colour))})'),
                name,
                class_='key',
            )
            for name, colour in known.items()
        ]
        return element('div', *keys)


def _annotated(item: Mapping[str, Any], height: int, width: int) -> Outline:
    """An object as MMDetection's datasets list it, which do not check masks that nobody trains."""
    mask = item.get('mask')
    if mask_fault(mask, height, width):
        shapes = []
    elif isinstance(mask, dict):  # run lengths
        rle = mask if isinstance(mask['counts'], bytes | str) else coco_mask.frPyObjects(mask, *mask['size'])
        shapes = outlines(coco_mask.decode(rle))
    else:
        shapes = [np.reshape(polygon, (-1, 2)) for polygon in mask]
    return Outline(item['bbox_label'], None, item['bbox'], shapes)


def _uri(kind: str, data: np.ndarray) -> str:
    return f'data:image/{kind};base64,{base64.b64encode(data).decode()}'
