"""The toolboxes' inferencers: predictions of a segmentor."""

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from mmseg.structures import SegDataSample
from torch.utils._python_dispatch import TorchDispatchMode

from crossformer_mm.data.datasets import set_num_classes
from crossformer_mm.engine import cli
from crossformer_mm.engine import inferencer as inferencer_module
from crossformer_mm.engine.infer import infer, inference_parser
from crossformer_mm.engine.inferencer import open_inferencer, predict
from crossformer_mm.utils.errors import UserError

SKY, ROAD = 0, 1
SEGMENTOR = """
default_scope = 'mmseg'
custom_imports = dict(imports=['crossformer_mm'])
model = dict(
    type='EncoderDecoder',
    data_preprocessor=dict(type='SegDataPreProcessor', mean=[0.0] * 3, std=[255.0] * 3, size_divisor=None),
    backbone=dict(type='CrossFormer', arch=dict(embed_dims=32, depths=(1, 1, 1, 1), num_heads=(1, 2, 4, 8))),
    neck=dict(type='FPN', in_channels=[32, 64, 128, 256], out_channels=16, num_outs=4),
    decode_head=dict(
        type='FPNHead', in_channels=[16] * 4, in_index=[0, 1, 2, 3], feature_strides=[4, 8, 16, 32],
        channels=16, dropout_ratio=0.0, num_classes=150, norm_cfg=dict(type='BN'), align_corners=False),
    test_cfg=dict(mode='whole'))
test_dataloader = dict(dataset=dict(type='ADE20KDataset', pipeline=[
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(96, 64), keep_ratio=True),
    dict(type='LoadAnnotations', reduce_zero_label=True),
    dict(type='PackSegInputs')]))
visualizer = dict(type='SegLocalVisualizer', vis_backends=[dict(type='LocalVisBackend')], name='visualizer')
"""


@pytest.fixture(scope='module')
def segmentor(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a narrow Semantic FPN for ADE20K, ``fpn.py``, and ``two.pth``, for two other classes."""
    folder = tmp_path_factory.mktemp('segmentor')
    (folder / 'fpn.py').write_text(SEGMENTOR)
    cfg = Config.fromfile(folder / 'fpn.py')
    init_default_scope('mmseg')
    set_num_classes(cfg.model, 2)
    torch.manual_seed(0)
    state = MODELS.build(cfg.model).state_dict()
    meta = {'dataset_meta': {'classes': ('sky', 'road'), 'palette': [[0, 0, 255], [0, 255, 0]]}}
    torch.save({'state_dict': state, 'meta': meta}, folder / 'two.pth')
    return folder


def test_weights_and_classes_are_those_of_the_file(segmentor: Path) -> None:
    """MMEngine's inferencers would keep random weights if a method that they call were renamed."""
    inferencer = open_inferencer(segmentor / 'fpn.py', segmentor / 'two.pth', 'cpu')
    saved = torch.load(segmentor / 'two.pth')
    torch.testing.assert_close(inferencer.model.state_dict(), saved['state_dict'], rtol=0, atol=0)
    for meta in (inferencer.model.dataset_meta, inferencer.visualizer.dataset_meta):
        assert meta['classes'] == ('sky', 'road')
        assert meta['palette'] == [(0, 0, 255), (0, 255, 0)]


def test_segmentation(segmentor: Path, tmp_path: Path) -> None:
    """Label maps have the sizes of their images, and the JSON counts their pixels."""
    (tmp_path / 'in').mkdir()
    sizes = {'a': (40, 60), 'b': (64, 96), 'c': (1, 1), 'd': (3, 700)}
    for name, size in sizes.items():
        noise = np.random.default_rng(0).integers(0, 255, (*size, 3), np.uint8)
        cv2.imwrite(str(tmp_path / 'in' / f'{name}.png'), noise)
    words = [tmp_path / 'in', '--config', segmentor / 'fpn.py', '--checkpoint', segmentor / 'two.pth']
    words += ['--out', tmp_path / 'out', '--bf16', '--batch-size', '3']
    assert cli.run(inference_parser(), infer, list(map(str, words))) == 0
    content = json.loads((tmp_path / 'out' / 'results.json').read_text())
    assert content['classes'] == ['sky', 'road']
    assert len(content['images']) == len(sizes)
    for image in content['images']:
        labels = cv2.imread(str(tmp_path / 'out' / image['label_map']), cv2.IMREAD_UNCHANGED)
        assert labels.shape == (image['height'], image['width']) == sizes[Path(image['file']).stem]
        counts = {segment['name']: segment['pixels'] for segment in image['segments']}
        want = {'sky': int((labels == SKY).sum()), 'road': int((labels == ROAD).sum())}
        assert counts == {name: pixels for name, pixels in want.items() if pixels}
        assert (tmp_path / 'out' / image['picture']).is_file()


def test_picture_of_segments_has_the_colours_of_the_classes(segmentor: Path, tmp_path: Path) -> None:
    """A grey image is tinted blue where the label is sky, and green where it is road."""
    grey = np.random.default_rng(0).integers(0, 255, (100, 200), np.uint8)
    cv2.imwrite(str(tmp_path / 'grey.png'), grey)
    words = [tmp_path / 'grey.png', '--config', segmentor / 'fpn.py', '--checkpoint', segmentor / 'two.pth']
    assert cli.run(inference_parser(), infer, list(map(str, [*words, '--out', tmp_path]))) == 0
    labels = cv2.imread(str(tmp_path / 'label_maps' / 'grey.png'), cv2.IMREAD_UNCHANGED)
    picture = cv2.imread(str(tmp_path / 'pictures' / 'grey.png'))
    assert picture.shape[0] == 400
    assert picture.shape[1] > 1000, 'the legend is beside it'
    assert set(np.unique(labels)) == {SKY, ROAD}
    channel = picture[2::4, 2:800:4].argmax(-1)  # blue or green, in OpenCV's order
    assert (channel == labels).mean() > 0.97


def test_segments_are_those_of_the_toolbox(segmentor: Path) -> None:
    """A batch of mixed sizes gives the results of single images with MMSegmentation's own call."""
    inferencer = open_inferencer(segmentor / 'fpn.py', segmentor / 'two.pth', 'cpu')
    rng = np.random.default_rng(1)
    images = [rng.integers(0, 255, (*size, 3), np.uint8) for size in ((40, 60), (40, 60), (64, 32))]
    samples = predict(inferencer, images)
    for image, sample in zip(images, samples, strict=True):
        alone = inferencer(image)['predictions']
        assert (sample.pred_sem_seg.data[0].numpy() == alone).mean() > 0.999


def test_a_config_that_reads_images_in_another_way_is_refused(segmentor: Path) -> None:
    grey = ['test_dataloader.dataset.pipeline.0.color_type=grayscale']
    with pytest.raises(UserError, match="loads images with color_type='grayscale'"):
        open_inferencer(segmentor / 'fpn.py', segmentor / 'two.pth', 'cpu', cfg_options=grey)


@pytest.mark.parametrize('classes', [1, 2, 7])
def test_labels_are_found_for_few_classes_at_a_time(
    segmentor: Path, monkeypatch: pytest.MonkeyPatch, classes: int
) -> None:
    """They are exactly those of all logits at the images' sizes, which are never in memory together."""
    model = open_inferencer(segmentor / 'fpn.py', segmentor / 'two.pth', 'cpu').model
    model.decode_head.threshold = 0.3  # of a single class
    torch.manual_seed(0)
    logits = torch.randn(2, classes, 16, 24)
    logits[:, 1:2] = logits[:, :1]  # of equal ones, the first counts

    def samples() -> list[SegDataSample]:
        metas = [{'ori_shape': (40, 50)}, {'ori_shape': (60, 31), 'padding_size': [1, 2, 3, 4]}]
        return [SegDataSample(metainfo=meta) for meta in metas]

    whole = model.postprocess_result(logits, samples())
    monkeypatch.setattr(inferencer_module, '_GROUP', 2 * 60 * 31)
    with LargestTensor() as largest:
        parts = inferencer_module._find_labels(model, logits, samples())
    for part, one in zip(parts, whole, strict=True):
        torch.testing.assert_close(part.pred_sem_seg.data, one.pred_sem_seg.data, rtol=0, atol=0)
    assert largest.count <= 2 * 60 * 31


class LargestTensor(TorchDispatchMode):
    """A context that notes the number of elements of the largest result."""

    count = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor) and not func.is_view:
            self.count = max(self.count, result.numel())
        return result


def test_label_maps_are_not_replaced_by_predictions_on_them(
    segmentor: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    labels = tmp_path / 'label_maps' / 'a.png'
    labels.parent.mkdir()
    cv2.imwrite(str(labels), np.ones((8, 8), np.uint8))
    before = labels.read_bytes()
    words = [labels.parent, '--config', segmentor / 'fpn.py', '--checkpoint', segmentor / 'two.pth']
    assert cli.run(inference_parser(), infer, list(map(str, [*words, '--out', tmp_path]))) == 1
    error = f'error: --out {labels.parent}: contains the data {labels}; choose another place'
    assert error in capsys.readouterr().err.splitlines()
    assert labels.read_bytes() == before
    assert list(tmp_path.rglob('*')) == [labels.parent, labels]
