"""Kernels for CPUs: the same numbers as the plain network, sooner and in less memory.

:mod:`.replace` decides, in one place, where they may stand in for the layers as written.
"""

from .branches import add_branches
from .cells import embed_cells
from .replace import Layers, replaces_branches, replaces_convs

__all__ = ['Layers', 'add_branches', 'embed_cells', 'replaces_branches', 'replaces_convs']
