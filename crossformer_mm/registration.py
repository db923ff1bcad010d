"""Puts the backbone into the model registries, under every name that a config may use."""

import importlib
import warnings
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

from mmengine.registry import MODELS, Registry

from .models.crossformer import CrossFormer

TOOLBOXES = ('mmdet', 'mmseg')
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
    """What builds a type of the authors' configs from the arguments that they use.

    Their configs of 2023 pass ``adaptive_interval``, whatever its value, and those of 2021 do not: the layout
    of long distance attention is that of the code that the config was written for.

    Args:
        name: One of :data:`PUBLISHED_TYPES`.
    """

    def build(**kwargs: Any) -> CrossFormer:
        kwargs.setdefault('long_distance', 'window' if 'adaptive_interval' in kwargs else 'map')
        renamed = {PUBLISHED_ARGUMENTS.get(key, key): value for key, value in kwargs.items()}
        return CrossFormer(PUBLISHED_TYPES[name], **renamed)

    return build


def toolbox_registry(toolbox: str) -> Registry:
    """The model registry of a toolbox; of one that is not installed, an empty one that answers to its name.

    Without it, ``mmseg.CrossFormer`` would not build where MMDetection alone is installed.
    """
    if find_spec(toolbox) is not None:
        try:
            return importlib.import_module(f'{toolbox}.registry').MODELS
        except (ImportError, AssertionError) as error:  # the toolboxes assert their versions
            warnings.warn(
                f'CrossFormer is not registered with {toolbox}, which does not import: {error}',
                stacklevel=2,
            )
    if toolbox not in MODELS.children:
        Registry('model', parent=MODELS, scope=toolbox, locations=['crossformer_mm'])
    return MODELS.children[toolbox]


def register_backbones() -> None:
    """Register the backbone with mmengine's root and both toolboxes. Safe to call again."""
    builders = {'CrossFormer': CrossFormer, **{name: published_type(name) for name in PUBLISHED_TYPES}}
    for registry in [MODELS, *map(toolbox_registry, TOOLBOXES)]:
        for name, builder in builders.items():
            registry.register_module(name, module=builder, force=True)
