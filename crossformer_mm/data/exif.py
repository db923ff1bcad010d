"""Whether images are turned as their EXIF data says when they are loaded: the option ``--ignore-exif``."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from mmengine.config import Config

from ..utils.errors import UserError
from ..utils.text import printable
from .datasets import dicts_in
from .images import spread, turned_images
from .problems import Problem

# mmcv's names for how images are read, and those for the same without turning them
_FLAGS = {'color': 'color_ignore_orientation', 'grayscale': 'grayscale_ignore_orientation'}
_LOADERS = ('LoadImageFromFile', 'InferencerLoader')
_MOST = 2000  # images looked at when a run starts


def ignore_exif(cfg: Config) -> None:
    """Let every pipeline of a config load the stored pixels of images, without turning them.

    Args:
        cfg: The config, changed in place.

    Raises:
        UserError: No pipeline loads images in a way that has this setting.
    """
    for loader in _image_loaders(cfg):
        flag = loader.get('color_type', 'color')
        loader['color_type'] = _FLAGS.get(flag, flag)
    if not ignores_exif(cfg):
        raise UserError(f'--ignore-exif: no pipeline of {cfg.filename} loads images with LoadImageFromFile')


def ignores_exif(part: Any) -> bool:
    """Whether a config, or a part of it such as a dataset, has the setting of :func:`ignore_exif`."""
    return any(loader.get('color_type') in _FLAGS.values() for loader in _image_loaders(part))


def _image_loaders(part: Any) -> Iterator[dict]:
    parts = dict(part.items())  # a Config is no dict
    return (step for _, step in dicts_in(parts) if str(step.get('type')).endswith(_LOADERS))


def other_than_in_training(cfg: Config, ignored: bool | None) -> list[str]:
    """A line for the log if a model was trained with the other setting than a config has.

    Args:
        cfg: The config of an evaluation.
        ignored: Whether the model was trained with :func:`ignore_exif`; None if it is not known.
    """
    if ignored in (None, ignores_exif(cfg)):
        return []
    how = 'with' if ignored else 'without'
    return [f'the model was trained {how} --ignore-exif; test it in the same way, or what it sees is turned']


def check_exif(paths: Sequence[Path]) -> list[Problem]:
    """Warn of images that are turned when they are loaded: their annotations may be of the stored pixels.

    Args:
        paths: Images of a dataset without the setting of :func:`ignore_exif`.

    Returns:
        One warning for each such image.
    """
    remedy = 'if they were labelled without being turned, give --ignore-exif here and in every later command'
    return [
        Problem('images turned by EXIF', f'{path} is turned as its EXIF data says', False, remedy)
        for path in turned_images(paths)
    ]


def exif_warnings(dataset: Any, setting: Any) -> list[str]:
    """Do the same for at most 2,000 evenly spaced images of a dataset that a run has built.

    Args:
        dataset: The dataset; one that cannot list its images passes.
        setting: Its config.

    Returns:
        One line for the log, or none.
    """
    if ignores_exif(setting) or not hasattr(dataset, 'get_data_info'):
        return []
    records = map(dataset.get_data_info, spread(range(len(dataset)), _MOST))
    paths = [Path(record['img_path']) for record in records if record.get('img_path')]
    problems = check_exif(paths)
    counts = f'{len(problems)} of the {len(paths)} images that were looked at are turned by EXIF'
    return [printable(f'{counts}: {problem.line()}') for problem in problems[:1]]
