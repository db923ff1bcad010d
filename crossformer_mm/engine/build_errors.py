"""Explain in one line which setting of a config MMEngine could not build, with the nearest known names."""

import difflib
import inspect
import re
from collections.abc import Iterator
from types import FrameType
from typing import Any

from mmengine import registry
from mmengine.config import Config
from mmengine.registry import Registry
from mmengine.runner import Runner

from ..compat import is_build_frame

_REGISTRIES = [item for item in vars(registry).values() if isinstance(item, Registry)]
_NEAREST = 3  # names in a message
_RUNS = ('train', 'val', 'test', 'call_hook', 'from_cfg')  # methods of Runner that call all others


def build_error(error: Exception, cfg: Config) -> str | None:
    """Explain an error that was raised while MMEngine built a run from its config.

    Args:
        error: The error, with its traceback.
        cfg: The config of the run.

    Returns:
        The setting, its value, the reason and the nearest known names, in one line; None if the error was not
        raised while building.
    """
    frame = next(filter(_builds, _frames(error)), None)
    if frame is None:
        return None
    text = _explain_part(error, frame, cfg) if is_build_frame(frame) else _explain_method(error, frame, cfg)
    return ' '.join(f'{cfg.filename}: {text}'.split())


def _frames(error: Exception) -> Iterator[FrameType]:
    """The frames of a traceback, innermost first."""
    frames, traceback = [], error.__traceback__
    while traceback:
        frames.append(traceback.tb_frame)
        traceback = traceback.tb_next
    return reversed(frames)


def _builds(frame: FrameType) -> bool:
    of_runner = frame.f_code.co_filename == inspect.getfile(Runner)
    return is_build_frame(frame) or (of_runner and frame.f_code.co_name not in _RUNS)


def _explain_part(error: Exception, frame: FrameType, cfg: Config) -> str:
    """Explain an error raised by a registry: name the part of the config that it was building."""
    part, scope, built = (frame.f_locals.get(name) for name in ('cfg', 'registry', 'obj_cls'))
    name, node = _find(cfg, part)
    if built is None and 'type' in node and isinstance(error, KeyError):
        near = _nearest(node['type'], _names(scope))
        return f'{name}.type={node["type"]}: unknown {scope.name.replace("_", " ")}{near}'
    settings = '' if any(isinstance(v, dict | list) for v in node.values()) else f' ({_listed(node)})'
    return f'{name}{settings}: {_reason(error)}{_near_argument(error, built)}'


def _explain_method(error: Exception, frame: FrameType, cfg: Config) -> str:
    """Explain an error raised in one of Runner's own methods: name the argument that it was called with."""
    arguments = [name for name in inspect.getargs(frame.f_code).args if name != 'self']
    if not arguments or frame.f_code.co_name == '__init__':
        return _reason(error)
    part = frame.f_locals.get(arguments[0])
    name = _find(cfg, part)[0] if isinstance(part, dict) else f'{arguments[0]}={part!r:.60}'
    known = {found for scope in _REGISTRIES for found in _names(scope)}
    for inner, node in _nodes(part, name):
        if isinstance(node.get('type'), str) and node['type'].rpartition('.')[2] not in known:
            return f'{inner}.type={node["type"]}: unknown type{_nearest(node["type"], known)}'
    return f'{name}: {_reason(error)}'


def _listed(node: dict) -> str:
    return ', '.join(f'{key}={value!r:.60}' for key, value in node.items() if key != '_scope_')


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.filename:
        return f'{error.filename}: {error.strerror}'
    text = str(error.args[0] if error.args else '').strip().partition('\n')[0][:300]
    return text if ' ' in text else f'{type(error).__name__} {text}'


def _near_argument(error: Exception, built: Any) -> str:
    """A hint with the argument names closest to an unexpected one."""
    found = re.search(r"unexpected keyword argument '(\w+)'", str(error))
    built = getattr(built, 'load', lambda: built)()  # of this package's plugins
    if not found or not callable(built):
        return ''
    makers = [built]
    if inspect.isclass(built):
        makers = [vars(base)['__init__'] for base in built.__mro__[:-1] if '__init__' in vars(base)]
    return _nearest(found[1], {name for maker in makers for name in inspect.signature(maker).parameters})


def _names(scope: Registry) -> set[str]:
    """The names known to a registry and its parents, resolved in the default scope."""
    names: set[str] = set()
    with scope.switch_scope_and_registry(None) as current:
        while current is not None:
            names |= current.module_dict.keys()
            current = current.parent
    return names


def _nearest(word: Any, known: set[str]) -> str:
    by_case = {name.lower(): name for name in sorted(known - {'self', 'args', 'kwargs'})}
    close = difflib.get_close_matches(str(word).lower(), by_case, n=_NEAREST)
    return f'; did you mean {" or ".join(by_case[name] for name in close)}?' if close else ''


def _find(cfg: Config, part: Any) -> tuple[str, dict]:
    """The setting that a part was built from, though MMEngine may have added or removed arguments."""
    if not isinstance(part, dict):
        return repr(part)[:60], {}
    same_type = [(name, node) for name, node in _nodes(cfg) if node.get('type') == part.get('type')]
    return max(same_type, key=lambda item: _shared(item[1], part), default=(part.get('type', 'a part'), part))


def _shared(node: dict, part: dict) -> tuple[int, int]:
    return sum(part.get(key) == value for key, value in node.items()), -len(node)


def _nodes(node: Any, name: str = '') -> Iterator[tuple[str, dict]]:
    if isinstance(node, dict | Config):
        if name:
            yield name, node
        for key, value in node.items():
            yield from _nodes(value, f'{name}.{key}' if name else key)
    elif isinstance(node, list | tuple):
        for index, value in enumerate(node):
            yield from _nodes(value, f'{name}.{index}')
