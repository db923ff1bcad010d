"""Package metadata, with version ranges that should work; requirements/ pins the tested versions."""

import runpy
import shutil
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent


class BuildWithConfigs(build_py):
    """Copies the configs and their index into the package, where OpenMMLab's tools look for them."""

    def run(self) -> None:
        """Build, without files that an earlier build left behind."""
        shutil.rmtree(Path(self.build_lib, 'crossformer_mm'), ignore_errors=True)
        super().run()
        if not self.editable_mode:  # an editable installation uses those of the clone
            inside = Path(self.build_lib, 'crossformer_mm', '.mim')
            shutil.rmtree(inside, ignore_errors=True)
            shutil.copytree(
                ROOT / 'configs', inside / 'configs', ignore=shutil.ignore_patterns('__pycache__')
            )
            shutil.copy(ROOT / 'model-index.yml', inside)


setup(
    name='crossformer-mm',
    version=runpy.run_path(str(ROOT / 'crossformer_mm' / 'version.py'))['__version__'],
    description='CrossFormer and CrossFormer++ backbones for MMDetection, MMSegmentation, MMPretrain',
    long_description=(ROOT / 'README.md').read_text(encoding='utf-8'),
    long_description_content_type='text/markdown',
    author='The crossformer_mm developers',
    license='Apache-2.0',
    classifiers=[
        'Development Status :: 4 - Beta',
        'Intended Audience :: Science/Research',
        'Operating System :: POSIX :: Linux',
        'Programming Language :: Python :: 3',
        'Topic :: Scientific/Engineering :: Artificial Intelligence',
        'Topic :: Scientific/Engineering :: Image Recognition',
    ],
    packages=find_packages(include=['crossformer_mm', 'crossformer_mm.*']),
    py_modules=['crossformer_mm_command'],
    entry_points={'console_scripts': ['crossformer = crossformer_mm_command:main']},
    cmdclass={'build_py': BuildWithConfigs},
    python_requires='>=3.10',
    # Neither mmcv nor its toolboxes: the two families would overwrite each other. See the extras.
    install_requires=[
        'torch>=2.6',  # older releases do not report what their safe unpickler refuses
        'numpy>=1.26',
        'matplotlib',
        'opencv-python',  # both families ask for this build of OpenCV
        'packaging',
        'pillow',
        'pycocotools',
        'pyyaml',
        'rich',
        'safetensors',
        'terminaltables',
    ],
    extras_require={
        'export': ['onnxruntime'],  # to run exported models
        'onedl': [
            'onedl-mmcv>=2.3,<2.4',
            'onedl-mmengine>=0.10.8,<1',
            'onedl-mmdetection>=3.5,<4',
            'onedl-mmpretrain>=1.3.6,<2',
            'onedl-mmsegmentation>=1.4,<2',
        ],
        'openmmlab': [
            'mmcv>=2.1,<2.2',
            'mmengine>=0.10.7,<1',
            'mmdet>=3.3,<4',
            'mmpretrain>=1.2,<2',
            'mmsegmentation>=1.2.2,<2',
            'ftfy',  # mmsegmentation imports this and regex without requiring them
            'regex',
        ],
        'onnx': ['onnx', 'onnxruntime'],  # crossformer export
    },
)
