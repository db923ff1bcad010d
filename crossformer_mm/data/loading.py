"""Report the image file at which a run stopped."""

import ast
import re
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

import cv2
from mmengine.config import Config

from ..utils.errors import UserError
from ..utils.files import files_in
from .datasets import LOADERS, datasets_of, join_data_root

_LOADER = 'mmcv/transforms/loading.py'
_UNDECODED = 'failed to load image: '  # the beginning of the loader's message


@contextmanager
def unreadable_images_named(cfg: Config) -> Iterator[None]:
    """Turn the errors of mmcv's loader, from worker processes too, into one line with the file's name.

    A worker process passes an exception on as the text of its traceback, which ends with the message.

    Args:
        cfg: The config of the run, whose folders are searched for an empty file.

    Raises:
        UserError: An image file is missing, cannot be opened or cannot be decoded.
    """
    try:
        yield
    except (AssertionError, OSError, cv2.error) as error:
        if _LOADER not in ''.join(traceback.format_exception(error)):
            raise
        path = _path_in_frames(error) or _path_in_text(str(error)) or _empty_image(cfg)
        raise UserError(
            f'{path} cannot be read as an image; replace the file, or remove it from the data'
        ) from error


def _path_in_frames(error: Exception) -> str | None:
    """The path that the loader was given, where it ran in this process."""
    for frame, _ in traceback.walk_tb(error.__traceback__):
        if frame.f_code.co_filename.endswith(_LOADER) and 'img_path' in frame.f_locals.get('results', {}):
            return frame.f_locals['results']['img_path']
    return None


def _path_in_text(text: str) -> str | None:
    """The path in the last line of a worker's traceback: as it is, or as Python quotes it after an errno."""
    reason = text.strip().rpartition('\n')[2]
    if _UNDECODED in reason:
        return reason.partition(_UNDECODED)[2]
    quoted = re.search(r"""\[Errno \d+\] [^:]*: (['"].*['"])$""", reason)
    return ast.literal_eval(quoted[1]) if quoted else None


def _empty_image(cfg: Config) -> str:
    """The first image file without content: OpenCV's error does not name it."""
    folders = {
        join_data_root(dataset, folder)
        for dataset in datasets_of(cfg, *LOADERS)
        for folder in dataset.get('data_prefix', {}).values()
    }
    files = (path for folder in sorted(folders) for path in files_in(folder))
    return str(next((path for path in files if not path.stat().st_size), 'an empty file'))
