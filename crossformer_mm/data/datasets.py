"""Find the datasets, evaluators and heads in a config of any toolbox."""

import colorsys
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mmengine.config import Config, ConfigDict
from mmengine.registry import DATASETS, MODELS
from torch import nn

from ..utils.errors import UserError

LOADERS = ('train_dataloader', 'val_dataloader', 'test_dataloader')
OWN_FOLDERS = 'ClassFolderDataset'
OWN_MAPS = 'LabelMapDataset'
# The arguments of LoadImageFromFile that change pixels, with the values that read_image is the same as.
_LOADING = {'color_type': ('color', 'color_ignore_orientation'), 'imdecode_backend': ('cv2', None)}


def build_network(cfg: Config, part: ConfigDict) -> nn.Module:
    """Build a config's model or a part of it; the caller sets the default scope of the registries.

    Args:
        cfg: The config.
        part: The part to build, with its ``type``.

    Raises:
        UserError: The part cannot be built.
    """
    with building(cfg):
        return MODELS.build(part)


@contextmanager
def building(cfg: Config) -> Iterator[None]:
    """Turn the toolboxes' errors for an unknown type or argument into one line that names the config.

    Args:
        cfg: The config whose model is built inside the context.

    Raises:
        UserError: The model cannot be built.
    """
    try:
        yield
    except (AssertionError, KeyError, TypeError, ValueError) as error:
        reason = str(error.args[0] if error.args else error).strip().partition('\n')[0]
        raise UserError(f'{cfg.filename}: the model cannot be built: {reason}') from error


def datasets_of(cfg: Config, *loaders: str) -> Iterator[ConfigDict]:
    """The configs of all datasets of some :data:`LOADERS`, wrappers such as ``RepeatDataset`` included.

    Args:
        cfg: The config; what is yielded are parts of it, not copies.
        *loaders: The data loaders; missing ones are skipped.
    """
    waiting = [(cfg.get(loader) or {}).get('dataset') for loader in loaders]
    while waiting:
        dataset = waiting.pop(0)
        if dataset is None:
            continue
        yield dataset
        waiting.extend([dataset.get('dataset'), *dataset.get('datasets', [])])


def coco_datasets(cfg: Config, *loaders: str) -> Iterator[ConfigDict]:
    """The datasets of :func:`datasets_of` that read COCO's format: CocoDataset and its subclasses."""
    return (dataset for dataset in datasets_of(cfg, *loaders) if _coco_base(dataset_class(cfg, dataset)))


def map_datasets(cfg: Config, *loaders: str) -> Iterator[ConfigDict]:
    """The datasets of :func:`datasets_of` that read label maps."""
    return (d for d in datasets_of(cfg, *loaders) if 'seg_map_path' in prefixes_of(d))


def class_datasets(cfg: Config, *loaders: str) -> Iterator[ConfigDict]:
    """The datasets of :func:`datasets_of` that read a folder of images per class."""
    return (d for d in datasets_of(cfg, *loaders) if type_name(d) == OWN_FOLDERS)


def dataset_class(cfg: Config, dataset: ConfigDict) -> Any:
    """The class registered under a dataset's ``type`` in the config's toolbox; None if it is unknown."""
    with DATASETS.switch_scope_and_registry(cfg.get('default_scope')) as registry:
        return registry.get(str(dataset.get('type')))


def type_name(part: Mapping[str, Any]) -> str:
    """The name of the class that a part of a config is of, without its toolbox, such as ``'CocoDataset'``."""
    return str(part.get('type')).rpartition('.')[2]


def _coco_base(kind: Any) -> Any:
    """MMDetection's CocoDataset, if ``kind`` is a subclass that reads its format (not all do)."""
    for base in getattr(kind, '__mro__', ()):
        if (base.__module__, base.__name__) == ('mmdet.datasets.coco', 'CocoDataset'):
            own = (kind.load_data_list, kind.parse_data_info)
            return base if own == (base.load_data_list, base.parse_data_info) else None
    return None


def dataset_meta(cfg: Config, dataset: ConfigDict) -> dict[str, Any]:
    """``classes`` and ``palette`` of a dataset; those in its config override those of its class.

    Args:
        cfg: The config that contains the dataset.
        dataset: The dataset's config.
    """
    own = dict(dataset.get('metainfo') or {})
    return own if 'classes' in own else {**getattr(dataset_class(cfg, dataset), 'METAINFO', {}), **own}


def chosen_meta(cfg: Config, dataset: ConfigDict) -> dict[str, Any]:
    """:func:`dataset_meta` of a COCO dataset, without the 80 classes that CocoDataset itself has."""
    kind = dataset_class(cfg, dataset)
    if kind.METAINFO is _coco_base(kind).METAINFO:
        return dict(dataset.get('metainfo') or {})
    return dataset_meta(cfg, dataset)


def join_data_root(dataset: ConfigDict, path: str) -> str:
    """A path of a dataset joined with its ``data_root``, as the toolboxes do."""
    return os.path.join(dataset.get('data_root') or '', path)  # noqa: PTH118


def annotation_path(dataset: ConfigDict) -> str:
    """The annotation file of a COCO dataset."""
    return join_data_root(dataset, dataset.get('ann_file', ''))


def prefixes_of(dataset: ConfigDict) -> dict[str, str]:
    """The folders of a dataset relative to its ``data_root``, by what they hold."""
    prefix = dataset.get('data_prefix', {})
    return {'img_path': prefix} if isinstance(prefix, str) else prefix  # MMPretrain takes both


def image_folder(dataset: ConfigDict) -> str:
    """The folder that a dataset's image names are relative to."""
    prefix = prefixes_of(dataset)
    return join_data_root(dataset, prefix.get('img_path', prefix.get('img', '')))


def folders_of(dataset: ConfigDict) -> list[str]:
    """The folders of images and label maps that any dataset reads."""
    return [join_data_root(dataset, folder) for folder in prefixes_of(dataset).values() if folder]


def input_paths(cfg: Config) -> list[str]:
    """The folders and files that all datasets and COCO evaluators of a config read; they need not exist."""
    datasets = list(datasets_of(cfg, *LOADERS))
    paths = [folder for dataset in datasets for folder in folders_of(dataset)]
    paths += [annotation_path(dataset) for dataset in datasets if dataset.get('ann_file')]
    evaluators = [evaluator for split in ('val', 'test') for evaluator in coco_evaluators(cfg, split)]
    return list(dict.fromkeys([*paths, *(evaluator.ann_file for evaluator in evaluators)]))


def coco_evaluators(cfg: Config, split: str) -> list[ConfigDict]:
    """The configs of the evaluators that read an annotation file.

    Args:
        cfg: The config; what is returned are parts of it, not copies.
        split: ``'val'`` or ``'test'``.
    """
    evaluators = cfg.get(f'{split}_evaluator') or []
    evaluators = [evaluators] if isinstance(evaluators, dict) else evaluators
    return [evaluator for evaluator in evaluators if 'ann_file' in evaluator]


def trains_masks(cfg: Config) -> bool:
    """Whether a detector has a mask head or a loss of masks, so that all objects need masks."""
    return any(part.get('mask_head') or part.get('loss_mask') for _, part in dicts_in(cfg.model))


def check_present(
    paths: Iterable[str],
    remedy: str,
    is_there: Callable[[Path], bool] = Path.is_dir,
    found: Callable[[list[str]], str] = lambda missing: '',
) -> None:
    """Check that files or folders exist, and list all missing ones in one message.

    Args:
        paths: The files or folders.
        remedy: How to set other paths, for the message.
        is_there: Whether a path exists; by default, whether it is a folder.
        found: Describes what there is instead of the missing ones.

    Raises:
        UserError: Some are missing.
    """
    missing = [path for path in dict.fromkeys(paths) if not is_there(Path(path))]
    if missing:
        raise UserError(f'no data at {", ".join(missing)}{found(missing)}; put the data there, or {remedy}')


def dicts_in(part: Any, path: str = '') -> Iterator[tuple[str, dict]]:
    """All dicts in a part of a config, with their names in the notation of ``--cfg-options``."""
    if isinstance(part, dict):
        yield path, part
    items = (
        part.items() if isinstance(part, dict) else enumerate(part) if isinstance(part, list | tuple) else ()
    )
    for key, inner in items:
        yield from dicts_in(inner, f'{path}.{key}')


def without_annotations(steps: list[Any]) -> list[Any]:
    """A pipeline without the steps that load annotations.

    Args:
        steps: The pipeline; ``TestTimeAug`` holds lists of alternative steps.
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


def check_loading(cfg: Config) -> None:
    """Check that a config's test pipeline decodes images as every command outside of MMEngine's runner does.

    Args:
        cfg: The config.

    Raises:
        UserError: It reads them in grey, with a fourth channel, or with another library than OpenCV.
    """
    for _, step in dicts_in(cfg.get('test_dataloader')):
        for name, usual in _LOADING.items() if str(step.get('type')).endswith('LoadImageFromFile') else ():
            if step.get(name, usual[0]) not in usual:
                raise UserError(
                    f'{cfg.filename}: the test pipeline loads images with {name}={step[name]!r:.60}, as only'
                    f' "crossformer test" of a checkpoint does; to predict or export, train with {usual[0]!r}'
                )


def set_num_classes(model: Any, count: int) -> None:
    """Set the number of classes in every head, in place, except an RPN's, which does not classify objects.

    Mask2Former counts things and stuff apart; unless they fit already, all classes become things.

    Args:
        model: The model's config or a part of it; heads may be in lists.
        count: The number of classes.

    Raises:
        UserError: A loss has weights of another number of classes, which are not all equal.
    """
    if isinstance(model, dict):
        if 'num_classes' in model:
            model['num_classes'] = count
        if 'num_things_classes' in model and things_and_stuff(model) != count:
            model.update(num_things_classes=count, num_stuff_classes=0)
        if 'loss_cls' in model:
            _set_class_weights(model['loss_cls'], count)
        for name, part in model.items():
            if name != 'rpn_head':
                set_num_classes(part, count)
    elif isinstance(model, list | tuple):
        for part in model:
            set_num_classes(part, count)


def things_and_stuff(head: dict[str, Any]) -> int:
    """The number of classes of a panoptic head's config; 0 if it is another head's."""
    return head.get('num_things_classes', 0) + head.get('num_stuff_classes', 0)


def _set_class_weights(loss: dict[str, Any], count: int) -> None:
    """Set the weights of a softmax's classes; the last one is the background's."""
    weights = loss.get('class_weight')
    if not isinstance(weights, list | tuple) or loss.get('use_sigmoid') or len(weights) == count + 1:
        return
    *of_classes, background = weights
    if len(set(of_classes)) != 1:
        raise UserError(
            f'class_weight of {loss["type"]}: {len(weights)} numbers for {count} classes and the background;'
            ' give one number per class, in the order of labels, and one for the background'
        )
    loss['class_weight'] = of_classes[:1] * count + [background]


def replace_sync_bn(part: Any) -> int:
    """Replace SyncBN with BN in a part of a model's config, in place; returns the number of replacements."""
    if isinstance(part, dict):
        found = part.get('type') in ('SyncBN', 'MMSyncBN')
        if found:
            part['type'] = 'BN'
        return found + sum(map(replace_sync_bn, part.values()))
    return sum(map(replace_sync_bn, part)) if isinstance(part, list | tuple) else 0


def palette(count: int) -> list[tuple[int, int, int]]:
    """Distinct colours, RGB from 0 to 255; the first ones are the same for every count."""
    golden = 0.618034  # steps of the golden ratio spread hues evenly, however many there are
    colours = (colorsys.hsv_to_rgb(i * golden % 1, 0.85, (0.95, 0.65)[i % 2]) for i in range(count))
    return [tuple(round(255 * channel) for channel in colour) for colour in colours]
