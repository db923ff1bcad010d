"""Checkpoints: read safely, identify, load strictly, convert.

Modules, lowest level first: ``inert`` (plain data in place of a pickle's objects), ``reader`` (files),
``names`` (tensor names and archs), ``cache`` (weights by name), ``meta`` (class names, layout, settings),
``load`` (into models), ``convert``, ``pretrained`` (build a backbone from a file, save it as a folder),
``resume`` (mmengine's own loading).
"""

from .load import load_backbone, load_model
from .names import recognise_arch
from .reader import open_checkpoint, read_checkpoint
from .resume import install_reader

__all__ = [
    'install_reader',
    'load_backbone',
    'load_model',
    'open_checkpoint',
    'read_checkpoint',
    'recognise_arch',
]
