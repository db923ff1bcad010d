"""CrossFormer and CrossFormer++ for MMDetection and MMSegmentation.

Importing the package registers all types that a config can use.
"""

from .models.crossformer import CrossFormer
from .plugins import register_backbones, register_parts
from .version import __version__

__all__ = ['CrossFormer', '__version__']

register_backbones()
register_parts()
