"""MMSegmentation's data set for images and label maps in two folders."""

from collections.abc import Sequence
from typing import Any

from mmseg.datasets import BaseSegDataset

from .label_check import IGNORED
from .label_files import find_pairs


class LabelMapDataset(BaseSegDataset):
    """Images and label maps of the same names, whatever their file types, with one more value to ignore.

    MMSegmentation's own base wants one ending for all images, and every part of a model, a pipeline and an
    evaluator to know which label is ignored. Here that label becomes 255 when a map is loaded, which all of
    them ignore by themselves.

    Args:
        ignore_label: A value in the files that stands for unlabelled pixels, beside 255; None for no other.
        **options: Of ``BaseSegDataset``; ``metainfo`` has ``classes`` and ``palette``.
    """

    def __init__(self, ignore_label: int | None = None, **options: Any) -> None:
        self.ignore_label = ignore_label
        super().__init__(**options)

    def get_label_map(self, new_classes: Sequence[str] | None = None) -> dict[int, int] | None:
        """What ``LoadAnnotations`` replaces, after ``reduce_zero_label``.

        Args:
            new_classes: Unused: a class is a place in the list, not a name in another.

        Returns:
            Label before to label after.
        """
        unlabelled = (0, IGNORED) if self.reduce_zero_label else (IGNORED,)  # without being told
        if self.ignore_label is None or self.ignore_label in unlabelled:
            return None
        return {self.ignore_label - self.reduce_zero_label: IGNORED}

    def load_data_list(self) -> list[dict[str, Any]]:
        """List the images with their label maps.

        Returns:
            What the pipeline starts from, a dict an image.
        """
        pairs = find_pairs(self.data_prefix['img_path'], self.data_prefix['seg_map_path'])
        common = {'label_map': self.label_map, 'reduce_zero_label': self.reduce_zero_label}
        return [
            {'img_path': str(image), 'seg_map_path': str(label_map), 'seg_fields': [], **common}
            for image, label_map in pairs
        ]
