"""MMPretrain's dataset for a folder of images per class, as ImageNet's archives unpack."""

from typing import Any

from .. import mmpretrain_parts  # noqa: F401, before other modules of MMPretrain

# isort: split
from mmpretrain.datasets import BaseDataset

from .class_splits import read_split


class ClassFolderDataset(BaseDataset):
    """Images in one folder per class, with subfolders of any depth; the classes are the folders' names.

    Unlike MMPretrain's ``CustomDataset``, a label is the index of the folder's name in the classes, so that a
    split without some of the classes has the labels of the others.

    Args:
        data_root: The folder of all splits.
        data_prefix: ``{'img_path': folder of this split}``.
        ann_file: A list of the images to read, a path relative to this folder per line; by default, all.
        **options: Arguments of MMPretrain's ``BaseDataset``; the ``classes`` in ``metainfo`` may be left out.
    """

    def __init__(
        self, data_root: str = '', data_prefix: Any = '', ann_file: str = '', **options: Any
    ) -> None:
        super().__init__(ann_file=ann_file, data_root=data_root, data_prefix=data_prefix, **options)

    def load_data_list(self) -> list[dict[str, Any]]:
        """List the images with their labels.

        Returns:
            ``img_path`` and ``gt_label`` of each image.

        Raises:
            UserError: A folder or the list cannot be read, or a listed image does not exist.
        """
        images = read_split(self.img_prefix, self.ann_file).images
        if self.CLASSES is None:
            self._metainfo['classes'] = tuple(images)
        return [
            {'img_path': str(file), 'gt_label': label}
            for label, name in enumerate(self.CLASSES)
            for file in images.get(name, ())
        ]
