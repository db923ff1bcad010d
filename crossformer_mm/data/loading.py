"""Report the image or label map at which a run stopped."""

import ast
import re
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
from mmengine.config import Config

from ..utils.errors import UserError
from ..utils.files import files_in
from .datasets import LOADERS, datasets_of, join_data_root, prefixes_of
from .images import PILLOW_ERRORS, SUFFIXES, NoImageError, image_header
from .label_files import read_label_map

_IMAGES, _MAPS = 'mmcv/transforms/loading.py', 'mmseg/datasets/transforms/loading.py'
_UNDECODED = 'failed to load image: '  # the beginning of the loader's message


@contextmanager
def unreadable_images_named(cfg: Config) -> Iterator[None]:
    """Turn errors of the toolboxes' loaders, also in worker processes, into one line with the file's name.

    A worker process passes an exception on as the text of its traceback, which ends with the message.

    Args:
        cfg: The config of the run, whose folders are searched for the file where the error does not name it.

    Raises:
        UserError: An image or a label map is missing, cannot be opened or cannot be decoded.
    """
    try:
        yield
    except (AssertionError, cv2.error, *PILLOW_ERRORS) as error:
        trace = ''.join(traceback.format_exception(error))
        path = _path_in_frames(error) or _path_in_text(str(error))
        if _MAPS in trace and (isinstance(error, OSError) or '/PIL/' in trace):
            reason = _reason(path, cfg, 'seg_map_path', read_label_map)
            raise UserError(reason or f'{path or "a label map"} cannot be read; replace the file') from error
        is_image = isinstance(error, OSError | cv2.error) or _UNDECODED in str(error)
        if _IMAGES not in trace or not is_image or 'insufficient memory' in str(error).lower():
            raise
        reason = _reason(path, cfg, 'img', image_header) or f'{path or "an image"} cannot be read as an image'
        raise UserError(f'{reason}; replace the file, or remove it from the data') from error


def _path_in_frames(error: Exception) -> str | None:
    """The path that a loader was given, where it ran in this process."""
    for frame, _ in reversed(list(traceback.walk_tb(error.__traceback__))):
        file, results = frame.f_code.co_filename, frame.f_locals.get('results')
        if file.endswith((_IMAGES, _MAPS)) and isinstance(results, dict):
            return results.get('seg_map_path' if file.endswith(_MAPS) else 'img_path')
    return None


def _path_in_text(text: str) -> str | None:
    """The path in the last line of a worker's traceback: as it is, or as Python quotes it after an errno."""
    reason = text.strip().rpartition('\n')[2]
    if _UNDECODED in reason:
        return reason.partition(_UNDECODED)[2]
    quoted = re.search(r"""\[Errno \d+\] [^:]*: (['"].*['"])$""", reason)
    return ast.literal_eval(quoted[1]) if quoted else None


def _reason(path: str | None, cfg: Config, prefix: str, read: Callable[[Path], Any]) -> str | None:
    """Why a file cannot be read; without its path, the first such file in the folders of the data."""
    folders = {
        join_data_root(dataset, folder)
        for dataset in datasets_of(cfg, *LOADERS)
        for name, folder in prefixes_of(dataset).items()
        if name.startswith(prefix)
    }
    paths = (file for folder in sorted(folders) for file in files_in(folder))
    suspects = (file for file in paths if file.name.lower().endswith(SUFFIXES))
    for file in [Path(path)] if path else suspects:
        try:
            read(file)
        except NoImageError as error:
            return f'{file} {error}'
        except UserError as error:
            return str(error)
    return None
