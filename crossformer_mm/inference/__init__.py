"""Predict on images: the toolboxes' own inferencers with safe and strict weights, and the tool around them.

Rooms, from leaf to root: ``images`` (find and read files), ``inferencer`` (models), ``results`` (what is
written), ``drawing`` (pictures), ``run`` (the command line).
"""

from .inferencer import open_inferencer, predict

__all__ = ['open_inferencer', 'predict']
