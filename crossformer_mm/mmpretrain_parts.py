"""Import all of MMPretrain, also where torchvision is not installed.

MMPretrain imports torchvision for a few transforms and metrics that training a classifier does not need.
Installing it beside a build of torch that it was not made for replaces that build, and mmcv's operators no
longer load. Importing this module therefore offers MMPretrain placeholders for whatever it imports from
torchvision; using one of them raises an ImportError.
"""

import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType
from typing import Any

from mmpretrain.utils import register_all_modules

PLACEHOLDER = 'torchvision'


class _Placeholder(type):
    """Classes that have any attribute, as the members of an enumeration do, and no objects."""

    def __getattr__(cls, name: str) -> str:
        return name

    def __call__(cls, *_: Any, **__: Any) -> None:
        raise ImportError(
            f'this part of MMPretrain needs {cls.__name__} of torchvision, which is not installed'
        )


class _PlaceholderModule(ModuleType):
    """A module in which any public name is a placeholder."""

    def __getattr__(self, name: str) -> type:
        if name.startswith('__'):
            raise AttributeError(name)
        return _Placeholder(name, (), {})


class _PlaceholderFinder(MetaPathFinder, Loader):
    """Finds torchvision for the modules of MMPretrain, and for no others."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: Any = None) -> ModuleSpec | None:
        if name.partition('.')[0] != PLACEHOLDER or not _imported_by_mmpretrain():
            return None
        return ModuleSpec(name, self, is_package=True)

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _PlaceholderModule(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """There is nothing to execute."""


def _imported_by_mmpretrain() -> bool:
    frame = sys._getframe(2)
    while frame.f_globals['__name__'].partition('.')[0] == 'importlib':
        frame = frame.f_back
    return frame.f_globals['__name__'].partition('.')[0] == 'mmpretrain'


def _register_all() -> None:
    if find_spec(PLACEHOLDER) is not None:
        register_all_modules(False)
        return
    finder = _PlaceholderFinder()
    sys.meta_path.append(finder)
    try:
        register_all_modules(False)
    finally:
        sys.meta_path.remove(finder)
        for name in [name for name in sys.modules if name.partition('.')[0] == PLACEHOLDER]:
            del sys.modules[name]


_register_all()
