"""Load an image, or stop with its name."""

import cv2
from mmcv.transforms import LoadImageFromFile

from ..utils.errors import UserError


class UnreadableImageError(UserError):
    """An image file that cannot be decoded; the message names it in one line.

    A worker process of the data loader hands an exception on as the text of its traceback, from which
    the main process makes one of the same type: the message is then the traceback's last line.
    """

    def __init__(self, message: str) -> None:
        prefix = f'{type(self).__module__}.{type(self).__qualname__}: '
        super().__init__(message.strip().rpartition('\n')[2].removeprefix(prefix))


class LoadNamedImage(LoadImageFromFile):
    """``LoadImageFromFile``, whose error says which file it was, from worker processes too."""

    def transform(self, results: dict) -> dict | None:
        """Load ``results['img_path']``.

        Args:
            results: A data sample on its way through the pipeline.

        Returns:
            The sample with ``img`` ``(H, W, 3)``.

        Raises:
            UnreadableImageError: The file is missing, or no image that OpenCV decodes.
        """
        try:
            return super().transform(results)
        except (OSError, AssertionError, cv2.error) as error:
            raise UnreadableImageError(
                f'{results["img_path"]} cannot be read as an image;'
                ' replace the file, or take it out of the data'
            ) from error
