"""CrossFormer and CrossFormer++ for MMDetection and MMSegmentation.

Importing the package registers the backbone with the toolboxes that are installed.
"""

from .models.crossformer import CrossFormer
from .registration import register_backbones
from .version import __version__

__all__ = ['CrossFormer', '__version__']

register_backbones()
