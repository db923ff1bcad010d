"""What of a COCO annotation file MMDetection trains on, and COCO's evaluation counts."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from .coco import CocoFile
from .coco_boxes import leaves_out
from .coco_values import Record
from .problems import Problem


@dataclass(frozen=True)
class ImagesUsed:
    """The images of a training set, as the dataset's ``filter_cfg`` selects them.

    Attributes:
        name: What the annotation file is called.
        used: Those that are trained on.
        empty: How many are left out because they have no objects of the classes.
        small: How many are left out because their shorter side has less than ``min_size`` pixels.
        min_size: The setting.
    """

    name: str
    used: list[Record]
    empty: int
    small: int
    min_size: int

    @property
    def left_out(self) -> int:
        """The number of images that are left out."""
        return self.empty + self.small

    def __str__(self) -> str:
        reasons = []
        if self.empty:
            reasons.append(f'{self.empty} without objects (filter_cfg.filter_empty_gt)')
        if self.small:
            reasons.append(f'{self.small} smaller than {self.min_size} pixels (filter_cfg.min_size)')
        left_out = f'; left out: {", ".join(reasons)}' if reasons else ''
        count = len(self.used)
        return f'{self.name}: training on {count} of {count + self.left_out} images{left_out}'


def images_used(file: CocoFile, filter_cfg: Mapping[str, Any] | None, classes: Collection[str]) -> ImagesUsed:
    """Find the images that MMDetection trains on.

    Args:
        file: The annotation file.
        filter_cfg: The dataset's setting.
        classes: The classes of the run.
    """
    rule = filter_cfg or {}
    with_objects = {annotation['image_id'] for annotation in _objects(file, classes)}
    filled = [
        image for image in file.images if not rule.get('filter_empty_gt') or image['id'] in with_objects
    ]
    min_size = rule.get('min_size', 0)
    used = [image for image in filled if min(image['height'], image['width']) >= min_size]
    return ImagesUsed(file.name, used, len(file.images) - len(filled), len(filled) - len(used), min_size)


def use_problems(file: CocoFile, classes: Collection[str], used: ImagesUsed | None) -> Iterator[Problem]:
    """Check that there is something to learn or to evaluate: without any object, COCO's numbers are −1.

    Args:
        file: The annotation file.
        classes: The classes of the run.
        used: The images used of a training set; None for an evaluation.
    """
    if used and used.left_out:
        yield Problem('images that training leaves out', str(used), fatal=not used.used)
    images = {image['id']: image for image in (used.used if used else file.images)}
    objects = [a for a in _objects(file, classes) if a['image_id'] in images]
    if objects and not any(_counts(a, images[a['image_id']], used is not None) for a in objects):
        reasons = 'a crowd (iscrowd), ignored (ignore)' if used else 'a crowd (iscrowd)'
        what = (
            f'{file.name}: each of the {len(objects)} objects is {reasons}, outside its image, or'
            ' smaller than a pixel'
        )
        yield Problem('nothing to learn' if used else 'nothing to evaluate', what)


def _objects(file: CocoFile, classes: Collection[str]) -> list[Record]:
    chosen = {category['id'] for category in file.categories if category['name'] in classes}
    return [annotation for annotation in file.annotations if annotation['category_id'] in chosen]


def _counts(annotation: Record, image: Record, training: bool) -> bool:
    ignored = annotation['iscrowd'] or (training and annotation.get('ignore'))
    return not ignored and not leaves_out(annotation, image)
