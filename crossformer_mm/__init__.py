"""CrossFormer and CrossFormer++ for MMDetection and MMSegmentation.

Importing the package registers everything that a config can name.
"""

from .models.crossformer import CrossFormer
from .plugins import register_backbones, register_parts
from .version import __version__

__all__ = ['CrossFormer', '__version__']

register_backbones()
register_parts()
