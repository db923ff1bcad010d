"""Kernels for CPUs: the results of the plain network, faster and in less memory.

Only :mod:`.replace` decides where they replace its layers.
"""

from .branches import add_branches
from .cells import embed_cells
from .replace import Layers, replaces_branches, replaces_convs

__all__ = ['Layers', 'add_branches', 'embed_cells', 'replaces_branches', 'replaces_convs']
