"""CrossFormer and CrossFormer++ for MMDetection and MMSegmentation.

Importing the package registers all types that a config can use.
"""

from importlib.util import find_spec

from .version import __version__

__all__ = ['CrossFormer', '__version__']

if find_spec('torch'):
    from .models.crossformer import CrossFormer
    from .plugins import register_backbones, register_parts

    register_backbones()
    register_parts()
else:  # exported models can be run without it

    def __getattr__(name: str) -> None:
        if name == 'CrossFormer':
            raise ImportError('CrossFormer needs PyTorch, which is not installed: pip install torch')
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
