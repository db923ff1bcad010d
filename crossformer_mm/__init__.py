"""CrossFormer and CrossFormer++ for MMDetection and MMSegmentation.

Importing the package registers the backbone with the toolboxes that are installed.
"""

from .crossformer import CrossFormer
from .registration import register_backbones

__all__ = ['CrossFormer']

register_backbones()
