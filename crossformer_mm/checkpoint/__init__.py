"""Checkpoints: read any of them safely, recognise, load whole or not at all, convert.

Modules, lowest level first: ``inert`` (data in place of a pickle's objects), ``reader`` (files), ``names``
(key conversion), ``recognise`` (the arch), ``layout`` (of long distance attention), ``load`` (into models),
``resume`` (mmengine's own loading).
"""

from .load import load_backbone, load_model
from .reader import read_checkpoint
from .recognise import recognise_arch
from .resume import install_reader

__all__ = ['install_reader', 'load_backbone', 'load_model', 'read_checkpoint', 'recognise_arch']
