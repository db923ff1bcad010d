"""Find the datasets and heads in a config of any toolbox."""

import colorsys
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mmengine.config import Config, ConfigDict
from mmengine.registry import DATASETS, MODELS
from torch import nn

from ..utils.errors import UserError

LOADERS = ('train_dataloader', 'val_dataloader', 'test_dataloader')


def build_network(cfg: Config, part: ConfigDict) -> nn.Module:
    """Build a config's model, or a part of it; the registries' default scope is the caller's to set.

    Args:
        cfg: The config.
        part: What of it to build, with its ``type``.

    Returns:
        The model or the part.

    Raises:
        UserError: It does not build.
    """
    with building(cfg):
        return MODELS.build(part)


@contextmanager
def building(cfg: Config) -> Iterator[None]:
    """Name the config where its model does not build: an unknown type, an argument that is not allowed.

    Args:
        cfg: The config.

    Raises:
        UserError: It does not.
    """
    try:
        yield
    except (AssertionError, KeyError, TypeError, ValueError) as error:
        reason = str(error.args[0] if error.args else error).strip().partition('\n')[0]
        raise UserError(f'{cfg.filename}: its model does not build: {reason}') from error


def datasets_of(cfg: Config, *loaders: str) -> Iterator[ConfigDict]:
    """Find all datasets of data loaders: wrappers such as ``RepeatDataset``, and what they wrap.

    Args:
        cfg: The config.
        *loaders: Of ``LOADERS``; the config may lack them.

    Yields:
        The datasets' own configs, to read or to change.
    """
    waiting = [(cfg.get(loader) or {}).get('dataset') for loader in loaders]
    while waiting:
        dataset = waiting.pop(0)
        if dataset is None:
            continue
        yield dataset
        waiting.extend([dataset.get('dataset'), *dataset.get('datasets', [])])


def dataset_class_name(dataset: ConfigDict) -> str:
    """The name of a dataset's class, without the toolbox in front.

    Args:
        dataset: A dataset's config.

    Returns:
        Such as ``'CocoDataset'``.
    """
    return str(dataset.get('type')).rpartition('.')[2]


def join_data_root(dataset: ConfigDict, path: str) -> str:
    """A dataset's path with its root, as the toolboxes join them.

    Args:
        dataset: A dataset's config.
        path: From the root, or absolute.

    Returns:
        The joined path.
    """
    return os.path.join(dataset.get('data_root') or '', path)  # noqa: PTH118


def check_present(paths: Iterable[str], remedy: str, is_there: Callable[[Path], bool] = Path.is_dir) -> None:
    """Check that data are where a config says; usually none is, and one message names all that is missing.

    Args:
        paths: What is wanted, by default folders.
        remedy: How to say where else they are.
        is_there: Tells whether a path is what is wanted.

    Raises:
        UserError: Some are missing.
    """
    missing = [path for path in dict.fromkeys(paths) if not is_there(Path(path))]
    if missing:
        raise UserError(f'no data at {", ".join(missing)}; put the data there, or {remedy}')


def dataset_meta(cfg: Config, dataset: ConfigDict) -> dict[str, Any]:
    """What a dataset says of itself: its own settings, over what its class knows.

    Args:
        cfg: The config that it is from, for the toolbox.
        dataset: The dataset's config.

    Returns:
        ``classes`` and ``palette``, where it says any.
    """
    own = dataset.get('metainfo') or {}
    if 'classes' in own:
        return dict(own)
    with DATASETS.switch_scope_and_registry(cfg.get('default_scope')) as datasets:
        kind = datasets.get(dataset.type)
    return {**getattr(kind, 'METAINFO', {}), **own}


def without_annotations(steps: list[Any]) -> list[Any]:
    """Take the loading of annotations out of a pipeline.

    Args:
        steps: A pipeline's; those of ``TestTimeAug`` hold lists of steps to choose from.

    Returns:
        The steps that are left.
    """
    left = []
    for step in steps:
        if isinstance(step, list | tuple):
            if kept := without_annotations(step):
                left.append(kept)
        elif not str(step['type']).endswith('LoadAnnotations'):
            inner = step.get('transforms')
            left.append(step if inner is None else {**step, 'transforms': without_annotations(inner)})
    return left


def set_num_classes(model: Any, count: int) -> None:
    """Give every head of a model's config the number of classes.

    Args:
        model: The model's config or a part of it, changed in place; heads may be in lists. An RPN's head
            keeps its own: it tells objects from background.
        count: How many classes there are.
    """
    if isinstance(model, dict):
        if 'num_classes' in model:
            model['num_classes'] = count
        for name, part in model.items():
            if name != 'rpn_head':
                set_num_classes(part, count)
    elif isinstance(model, list | tuple):
        for part in model:
            set_num_classes(part, count)


def replace_sync_bn(part: Any) -> int:
    """Put BN in place of SyncBN.

    Args:
        part: A model's config or a part of it, changed in place.

    Returns:
        In how many places.
    """
    if isinstance(part, dict):
        found = part.get('type') in ('SyncBN', 'MMSyncBN')
        if found:
            part['type'] = 'BN'
        return found + sum(map(replace_sync_bn, part.values()))
    return sum(map(replace_sync_bn, part)) if isinstance(part, list | tuple) else 0


def palette(count: int) -> list[tuple[int, int, int]]:
    """Colours that are easy to tell apart.

    Args:
        count: How many.

    Returns:
        RGB, 0 to 255; the first are the same for every count.
    """
    golden = 0.618034  # steps of the golden ratio spread hues evenly, however many there are
    colours = (colorsys.hsv_to_rgb(i * golden % 1, 0.85, (0.95, 0.65)[i % 2]) for i in range(count))
    return [tuple(round(255 * channel) for channel in colour) for colour in colours]
