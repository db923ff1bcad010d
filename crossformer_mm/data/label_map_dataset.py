"""An MMSegmentation dataset of images and label maps in two folders."""

from collections.abc import Sequence
from typing import Any

from mmseg.datasets import BaseSegDataset

from .label_check import IGNORED
from .label_files import find_pairs, listed_pairs, map_suffixes


class LabelMapDataset(BaseSegDataset):
    """Images and label maps of the same names, of any file types, with one more value that can be ignored.

    MMSegmentation's base class requires one suffix for all images, and the ignored label to be set in the
    model, the pipeline and the evaluator. Here that label becomes 255 when a map is loaded, which all of them
    ignore by default.

    Args:
        ignore_label: A value in the files for unlabelled pixels, besides 255.
        maps_ending: What the names of label maps end with, if other files are in their folders.
        **options: Arguments of ``BaseSegDataset``; ``metainfo`` has ``classes`` and ``palette``, and
            ``ann_file`` is a list of the images to read, a name without suffix per line.
    """

    def __init__(self, ignore_label: int | None = None, maps_ending: str = '', **options: Any) -> None:
        self.ignore_label = ignore_label
        self.maps_ending = maps_ending
        super().__init__(**options)

    def get_label_map(self, new_classes: Sequence[str] | None = None) -> dict[int, int] | None:
        """The labels that ``LoadAnnotations`` replaces, after ``reduce_zero_label``.

        Args:
            new_classes: Unused: the files have no class names to map from.

        Returns:
            New labels by old ones.
        """
        already_ignored = (0, IGNORED) if self.reduce_zero_label else (IGNORED,)
        if self.ignore_label is None or self.ignore_label in already_ignored:
            return None
        return {self.ignore_label - self.reduce_zero_label: IGNORED}

    def load_data_list(self) -> list[dict[str, Any]]:
        """List the images with their label maps.

        Returns:
            The input of the pipeline for each image.

        Raises:
            UserError: A listed image does not exist.
        """
        images, maps = self.data_prefix['img_path'], self.data_prefix['seg_map_path']
        pairs = find_pairs(images, maps, map_suffixes(self.maps_ending))
        if self.ann_file:
            pairs = listed_pairs(pairs, images, self.ann_file)
        common = {'label_map': self.label_map, 'reduce_zero_label': self.reduce_zero_label}
        return [
            {'img_path': str(image), 'seg_map_path': str(label_map), 'seg_fields': [], **common}
            for image, label_map in pairs
        ]
