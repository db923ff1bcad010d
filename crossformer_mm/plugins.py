"""Register all types that a config can use.

The backbone is registered with all toolboxes, under every name that a config may use. Everything else is
registered as a function that imports its module only when it is built, so that importing the package is fast
and needs no toolbox.
"""

import importlib
import warnings
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

from mmengine.registry import (
    DATASETS,
    HOOKS,
    LOOPS,
    METRICS,
    MODELS,
    OPTIM_WRAPPER_CONSTRUCTORS,
    OPTIM_WRAPPERS,
    VISBACKENDS,
    WEIGHT_INITIALIZERS,
    Registry,
)

from .compat import import_first
from .models.crossformer import CrossFormer

# Registry, module below this package, and the classes in it.
PARTS = (
    (DATASETS, 'data.class_folders', ['ClassFolderDataset']),
    (DATASETS, 'data.label_map_dataset', ['LabelMapDataset']),
    (METRICS, 'evaluation.classification_report', ['ClassificationReport']),
    (METRICS, 'evaluation.coco_report', ['CocoReport']),
    (METRICS, 'evaluation.segmentation_report', ['SegmentationReport']),
    (MODELS, 'models.classifier', ['CrossFormerClsHead']),
    (HOOKS, 'engine.hooks.agreement', ['AgreementHook']),
    (HOOKS, 'engine.hooks.checkpoint', ['AtomicCheckpointHook']),
    (HOOKS, 'engine.hooks.curves', ['CurvesHook']),
    (HOOKS, 'engine.hooks.early_stop', ['EarlyStopHook']),
    (HOOKS, 'engine.hooks.finite_loss', ['FiniteLossHook']),
    (HOOKS, 'engine.hooks.tracking', ['TrackingHook']),
    (LOOPS, 'engine.loops', ['ResumableEpochLoop', 'ResumableIterLoop']),
    (OPTIM_WRAPPER_CONSTRUCTORS, 'engine.layer_decay', ['CrossFormerLayerDecayConstructor']),
    (OPTIM_WRAPPERS, 'engine.mixed_precision', ['BFloat16OptimWrapper']),
    (VISBACKENDS, 'engine.backends', ['MLflowBackend', 'TensorBoardBackend', 'WandbBackend']),
    (WEIGHT_INITIALIZERS, 'checkpoint.load', ['CrossFormerPretrained']),
)
TOOLBOXES = ('mmdet', 'mmseg', 'mmpretrain')
_MMPRETRAIN_PARTS = f'{__package__}.mmpretrain_parts'
PUBLISHED_TYPES = {
    'CrossFormer_T': 't',
    'CrossFormer_S': 's',
    'CrossFormer_B': 'b',
    'CrossFormer_L': 'l',
    'CrossFormer_S2': 'pp_s',
    'CrossFormer_B2': 'pp_b',
    'CrossFormer_L2': 'pp_l',
}
PUBLISHED_ARGUMENTS = {
    'group_size': 'group_sizes',
    'crs_interval': 'intervals',
    'adaptive_interval': 'adaptive_intervals',
}


def published_type(name: str) -> Callable[..., CrossFormer]:
    """A builder for a type of the authors' configs, which takes their arguments.

    Their configs of 2023 pass ``adaptive_interval``, those of 2021 do not; this selects the layout of long
    distance attention that their code had then.

    Args:
        name: One of :data:`PUBLISHED_TYPES`.
    """

    def build(**kwargs: Any) -> CrossFormer:
        kwargs.setdefault('long_distance', 'window' if 'adaptive_interval' in kwargs else 'map')
        renamed = {PUBLISHED_ARGUMENTS.get(key, key): value for key, value in kwargs.items()}
        return CrossFormer(PUBLISHED_TYPES[name], **renamed)

    return build


def toolbox_registry(toolbox: str) -> Registry:
    """The model registry of a toolbox, or an empty one of the same name if it is not installed.

    The empty one allows ``mmseg.CrossFormer`` to be built if only MMDetection is installed.
    """
    if find_spec(toolbox) is not None:
        try:
            module = importlib.import_module(f'{toolbox}.registry')
            if toolbox == 'mmpretrain':
                import_first(module, _MMPRETRAIN_PARTS)
            return module.MODELS
        except (ImportError, AssertionError) as error:  # the toolboxes assert their versions
            warnings.warn(
                f'CrossFormer is not registered with {toolbox}, which does not import: {error}',
                stacklevel=2,
            )
    if toolbox not in MODELS.children:
        Registry('model', parent=MODELS, scope=toolbox, locations=['crossformer_mm'])
    return MODELS.children[toolbox]


def register_toolbox(toolbox: str) -> None:
    """Import everything that a toolbox registers, without making it the default scope.

    Args:
        toolbox: One of :data:`TOOLBOXES`.
    """
    if toolbox == 'mmpretrain':
        importlib.import_module(_MMPRETRAIN_PARTS)
    else:
        importlib.import_module(f'{toolbox}.utils').register_all_modules(init_default_scope=False)


def register_backbones() -> None:
    """Register the backbone with mmengine's root and all toolboxes. Safe to call again."""
    builders = {'CrossFormer': CrossFormer, **{name: published_type(name) for name in PUBLISHED_TYPES}}
    for registry in [MODELS, *map(toolbox_registry, TOOLBOXES)]:
        for name, builder in builders.items():
            registry.register_module(name, module=builder, force=True)


def register_parts() -> None:
    """Register everything in :data:`PARTS`. Safe to call again."""
    for registry, module, names in PARTS:
        for name in names:
            registry.register_module(name, module=_builder(module, name), force=True)


def _builder(module: str, name: str) -> Callable[..., Any]:
    """A function that imports a class when an object of it is built; its ``load`` returns the class."""

    def load() -> type:
        return getattr(importlib.import_module(f'{__package__}.{module}'), name)

    def build(*args: Any, **kwargs: Any) -> Any:
        return load()(*args, **kwargs)

    build.load = load
    return build
