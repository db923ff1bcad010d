"""The example of docs/deployment.md, which runs an exported file without this package."""

import re
from pathlib import Path

import cv2
import numpy as np
import pytest
from exported_files import CLASSES, write_detector
from PIL import Image
from without_torch import PROJECT, make_environment, run

from crossformer_mm.deploy.model import OnnxModel

(EXAMPLE,) = re.findall(
    r'^```python\n(.*?)^```',
    (PROJECT / 'docs' / 'deployment.md').read_text(encoding='utf-8'),
    re.DOTALL | re.MULTILINE,
)


@pytest.mark.parametrize('shape', [(300, 211), (90, 400), (20, 30)])
def test_the_example_finds_what_this_package_finds(tmp_path: Path, shape: tuple[int, int]) -> None:
    file = write_detector(tmp_path / 'model.onnx', (96, 128))
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held upright
    image = np.random.default_rng(0).integers(120, 256, (*shape, 3), np.uint8)
    Image.fromarray(image).save(tmp_path / 'image.png', exif=exif)
    packages = make_environment(tmp_path / 'packages', ['numpy', 'onnxruntime', 'pillow'])
    assert not {'cv2', 'crossformer_mm', 'torch'} & {path.name for path in packages.iterdir()}
    done = run(packages, EXAMPLE, file, tmp_path / 'image.png')
    assert not done.stderr
    lines = [re.fullmatch(r'(\w+) (\S+) \[(.*)\] (\d+)', line).groups() for line in done.stdout.splitlines()]

    (found,) = OnnxModel(file).predict([cv2.imread(str(tmp_path / 'image.png'))])
    count = int((found.scores >= 0.3).sum())
    assert len(lines) == count == 2
    for (name, score, box, pixels), i in zip(lines, range(count), strict=True):
        assert name == CLASSES[found.labels[i]]
        assert float(score) == pytest.approx(found.scores[i], abs=0.01)
        assert [int(side) for side in box.split(', ')] == [round(float(side)) for side in found.boxes[i]]
        assert int(pixels) == pytest.approx(found.masks[i].sum(), abs=2)
