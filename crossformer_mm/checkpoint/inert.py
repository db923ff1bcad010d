"""Stand-ins for the objects that checkpoints contain besides tensors, so that these are read as plain data.

torch's restricted unpickler calls only :data:`STAND_INS` and its own list of tensor builders. Real numpy
dtypes are not among them: a forged dtype can declare raw bytes to be object pointers.
"""

import argparse
import pickle
import re
from collections import OrderedDict
from typing import Any

import numpy as np
from mmengine.logging import HistoryBuffer

PLAIN_DTYPE = re.compile(r'[<>=|]?[?biufcSU]\d*')  # numbers and text; no objects or structures


class InertDtype:
    """A numpy dtype of numbers or text."""

    def __init__(self, code: str, *_flags: bool) -> None:
        if not isinstance(code, str) or not PLAIN_DTYPE.fullmatch(code):
            raise pickle.UnpicklingError(f'a numpy array of {code!r}, which is not plain data')
        self.dtype = np.dtype(code)

    def __setstate__(self, state: tuple) -> None:
        self.dtype = self.dtype.newbyteorder(state[1])


class InertArray:
    """A numpy array; ``__setstate__`` sets its data."""

    array: np.ndarray

    def __setstate__(self, state: tuple) -> None:
        _version, shape, dtype, fortran, data = state
        flat = np.frombuffer(data, dtype.dtype)
        self.array = flat.reshape(shape, order='F' if fortran else 'C').copy()


class InertHistory:
    """The attributes of mmengine's ``HistoryBuffer``."""


def history_method(owner: Any, name: str) -> str:
    """The name of a method of ``HistoryBuffer``, which pickles its methods with ``getattr``.

    Raises:
        pickle.UnpicklingError: Another use of ``getattr``.
    """
    if owner is not InertHistory or not isinstance(name, str):
        raise pickle.UnpicklingError('GLOBAL builtins.getattr')
    return name


def reconstruct_array(*_arguments: Any) -> InertArray:
    """Numpy's ``_reconstruct``: an array without its state."""
    return InertArray()


def reconstruct_scalar(dtype: InertDtype, data: bytes) -> bool | int | float | complex | str | bytes:
    """Numpy's ``scalar``: a Python number, string or bytes."""
    (value,) = np.frombuffer(data, dtype.dtype)
    return value.item()


# The objects that torch's unpickler uses for names in the pickle. It only fills dicts of exactly the types
# dict, OrderedDict and Counter, so that config objects become OrderedDicts.
STAND_INS = [
    (OrderedDict, 'yacs.config.CfgNode'),
    (OrderedDict, 'mmengine.config.config.ConfigDict'),
    (OrderedDict, 'mmcv.utils.config.ConfigDict'),
    (OrderedDict, 'addict.addict.Dict'),
    (argparse.Namespace, 'argparse.Namespace'),
    (InertHistory, 'mmengine.logging.history_buffer.HistoryBuffer'),
    (history_method, 'builtins.getattr'),
    (bytes, 'builtins.bytes'),
    (InertDtype, 'numpy.dtype'),
    (InertArray, 'numpy.ndarray'),
    (reconstruct_array, 'numpy.core.multiarray._reconstruct'),
    (reconstruct_array, 'numpy._core.multiarray._reconstruct'),
    (reconstruct_scalar, 'numpy.core.multiarray.scalar'),
    (reconstruct_scalar, 'numpy._core.multiarray.scalar'),
]


def resolve_stand_ins(value: Any) -> Any:
    """Replace the stand-ins in the unpickler's result with arrays and history buffers.

    Tensors are shared. Dicts lose the attributes that a pickle may have set on them, except a state dict's
    ``_metadata``.
    """
    return _resolve(value, {})


def _resolve(value: Any, seen: dict[int, Any]) -> Any:
    if id(value) in seen:  # a pickle may contain cycles, or share objects exponentially often
        return seen[id(value)]
    if isinstance(value, dict):
        return _resolve_dict(value, seen)
    if type(value) is list:
        seen[id(value)] = resolved = []
        resolved.extend(_resolve(item, seen) for item in value)
    elif type(value) is tuple:
        resolved = tuple(_resolve(item, seen) for item in value)
    elif isinstance(value, InertArray):
        resolved = value.array
    elif isinstance(value, InertHistory):
        resolved = _history(_resolve(vars(value), seen))
    else:
        return value
    seen[id(value)] = resolved
    return resolved


def _resolve_dict(value: dict, seen: dict[int, Any]) -> dict:
    seen[id(value)] = resolved = type(value)()
    for key, item in dict.items(value):  # not value.items(), which a pickle may have replaced
        resolved[_resolve(key, seen)] = _resolve(item, seen)
    metadata = getattr(value, '__dict__', {}).get('_metadata')
    if isinstance(metadata, dict):
        resolved._metadata = _resolve(metadata, seen)
    return resolved


def _history(attributes: dict[str, Any]) -> HistoryBuffer:
    return HistoryBuffer(attributes['_log_history'], attributes['_count_history'], attributes['max_length'])
