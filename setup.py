"""Package metadata: ranges that should work; requirements/ pins what was tested."""

import runpy
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent

setup(
    name='crossformer-mm',
    version=runpy.run_path(str(ROOT / 'crossformer_mm' / 'version.py'))['__version__'],
    description='CrossFormer and CrossFormer++ backbones for MMDetection and MMSegmentation',
    license='Apache-2.0',
    packages=find_packages(include=['crossformer_mm', 'crossformer_mm.*']),
    python_requires='>=3.10',
    # Nothing of mmcv and its toolboxes: the two families would be installed over each other. See the extras.
    install_requires=[
        'torch>=2.6',  # the first whose safe unpickling can be asked what it refuses
        'numpy>=1.26',
        'matplotlib',
        'pycocotools',
        'safetensors',
    ],
    extras_require={
        'onedl': [
            'onedl-mmcv>=2.3,<2.4',
            'onedl-mmengine>=0.10.8,<1',
            'onedl-mmdetection>=3.5,<4',
            'onedl-mmsegmentation>=1.4,<2',
        ],
        'openmmlab': [
            'mmcv>=2.1,<2.2',
            'mmengine>=0.10.7,<1',
            'mmdet>=3.3,<4',
            'mmsegmentation>=1.2.2,<2',
            'ftfy',  # mmsegmentation imports both without asking for them
            'regex',
        ],
    },
)
