"""Explain in one line which setting of a config MMEngine could not build, with the nearest known names."""

import difflib
import inspect
import re
from collections.abc import Iterator
from types import FrameType
from typing import Any

from mmengine.config import Config
from mmengine.registry import Registry
from mmengine.runner import Runner

from ..compat import is_build_frame

_NEAREST = 3  # names in a message
_RUNS = ('train', 'val', 'test', 'call_hook')  # methods of Runner in which anything may go wrong


def build_error(error: Exception, cfg: Config) -> str | None:
    """Explain an error that was raised while MMEngine built a run from its config.

    Args:
        error: The error, with its traceback.
        cfg: The config of the run.

    Returns:
        The setting, its value, the reason and the nearest known names, in one line; None where the error was
        not raised by building.
    """
    frames = list(_frames(error))
    built = next(filter(is_build_frame, frames), None)
    if built is not None:
        return _of_part(error, built, cfg)
    if any(f.f_code.co_filename == inspect.getfile(Runner) and f.f_code.co_name not in _RUNS for f in frames):
        return f'{cfg.filename}: {_reason(error)}{_near_argument(error, None)}'
    return None


def _frames(error: Exception) -> Iterator[FrameType]:
    """The frames of a traceback, innermost first."""
    frames, traceback = [], error.__traceback__
    while traceback:
        frames.append(traceback.tb_frame)
        traceback = traceback.tb_next
    return reversed(frames)


def _of_part(error: Exception, frame: FrameType, cfg: Config) -> str:
    part, registry, built = (frame.f_locals.get(name) for name in ('cfg', 'registry', 'obj_cls'))
    name = _path(cfg, part)
    if built is None and isinstance(part, dict) and 'type' in part:
        near = _nearest(part['type'], _names(registry))
        return f'{name}.type={part["type"]}: unknown {registry.name.replace("_", " ")}{near}'
    settings = ', '.join(f'{key}={value!r:.60}' for key, value in part.items()) if _is_leaf(part) else ''
    return f'{name}{f" ({settings})" if settings else ""}: {_reason(error)}{_near_argument(error, built)}'


def _is_leaf(part: Any) -> bool:
    return isinstance(part, dict) and not any(isinstance(value, dict | list) for value in part.values())


def _reason(error: Exception) -> str:
    text = str(error.args[0] if error.args else error).strip().partition('\n')[0]
    return ' '.join(text.split())[:300] or type(error).__name__


def _near_argument(error: Exception, built: Any) -> str:
    """The arguments that are most like an unexpected one."""
    found = re.search(r"unexpected keyword argument '(\w+)'", str(error))
    if not found or not callable(built):
        return ''
    makers = [vars(base)['__init__'] for base in inspect.getmro(built) if '__init__' in vars(base)]
    makers = makers[:-1] if inspect.isclass(built) else [built]  # object's own takes none
    return _nearest(found[1], {name for maker in makers for name in inspect.signature(maker).parameters})


def _names(registry: Registry | None) -> set[str]:
    names: set[str] = set()
    while registry is not None:
        names |= registry.module_dict.keys()
        registry = registry.parent
    return names


def _nearest(word: Any, known: set[str]) -> str:
    by_case = {name.lower(): name for name in sorted(known - {'self', 'args', 'kwargs'})}
    close = difflib.get_close_matches(str(word).lower(), by_case, n=_NEAREST)
    return f'; did you mean {" or ".join(by_case[name] for name in close)}?' if close else ''


def _path(cfg: Config, part: Any) -> str:
    """The name of the setting that a part was built from: MMEngine may have added or removed arguments."""
    if not isinstance(part, dict):
        return str(cfg.filename)
    candidates = [(name, node) for name, node in _nodes(cfg) if node.get('type') == part.get('type')]
    best = max(candidates, key=lambda item: _shared(item[1], part), default=None)
    return best[0] if best else f'{part.get("type", cfg.filename)}'


def _shared(node: dict, part: dict) -> tuple[int, int]:
    same = sum((key in part and part[key] is value) or part.get(key) == value for key, value in node.items())
    return same, -len(node)


def _nodes(node: Any, name: str = '') -> Iterator[tuple[str, dict]]:
    if isinstance(node, dict | Config):
        if name:
            yield name, node
        for key, value in node.items():
            yield from _nodes(value, f'{name}.{key}' if name else key)
    elif isinstance(node, list | tuple):
        for index, value in enumerate(node):
            yield from _nodes(value, f'{name}.{index}')
