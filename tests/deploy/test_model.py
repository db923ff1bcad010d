"""Exported files: batches, the pixels of the user's image, and files that are refused."""

import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from exported_files import (
    BOXES,
    CLASSES,
    LABELS,
    MASKS,
    PALETTE,
    SCORES,
    STRETCH,
    write_classifier,
    write_detector,
    write_glutton,
    write_segmentor,
)

from crossformer_mm.deploy.masks import PastedMasks
from crossformer_mm.deploy.model import OnnxModel
from crossformer_mm.deploy.predictions import Objects
from crossformer_mm.utils.errors import UserError, ran_out_of_memory

SIZE = (48, 64)
SHAPES = [(90, 75), (48, 64), (20, 200), (1, 450), (64, 48)]


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).integers(0, 256, (*shape, 3), np.uint8)


def same(first: Objects | np.ndarray, second: Objects | np.ndarray) -> bool:
    if isinstance(first, np.ndarray):
        return np.array_equal(first, second)
    return all(np.array_equal(a, b) for a, b in zip(first[:3], second[:3], strict=True)) and np.array_equal(
        list(first.masks), list(second.masks)
    )


@pytest.mark.parametrize('batch', [1, 3, 'batch'])
@pytest.mark.parametrize('write', [write_detector, write_segmentor, write_classifier])
def test_a_batch_of_any_size_has_the_predictions_of_its_images(
    tmp_path: Path, write, batch: int | str
) -> None:
    size = (35, 32) if write is write_classifier else SIZE
    model = OnnxModel(write(tmp_path / 'model.onnx', size, batch), threads=1)
    assert model.batch == (None if batch == 'batch' else batch)
    assert (model.classes, model.palette, model.size) == (CLASSES, PALETTE, size)
    assert (model.origin['config'], model.ignore_exif) == ('narrow.py', False)
    images = [noise(*shape) for shape in SHAPES]
    together = model.predict(images)
    alone = [model.predict([image])[0] for image in images]
    assert len(together) == len(images)
    assert all(map(same, together, alone))
    assert not same(together[0], together[1])
    assert model.predict([]) == []


def test_a_file_without_a_fixed_batch_takes_all_images_at_once(tmp_path: Path) -> None:
    model = OnnxModel(write_glutton(tmp_path / 'model.onnx', SIZE, 'batch'))
    assert len(model.predict([noise(20, 20)])) == 1
    with pytest.raises(Exception, match='Failed to allocate memory') as raised:
        model.predict([noise(20, 20)] * 2)
    assert ran_out_of_memory(raised.value)


def test_objects_are_in_the_pixels_of_the_image(tmp_path: Path) -> None:
    model = OnnxModel(write_detector(tmp_path / 'model.onnx', SIZE))
    for height, width in SHAPES:
        image = noise(height, width)
        (found,) = model.predict([image])
        # The last place is empty. A very thin image has been widened, by up to a hundredth.
        high = max(height, -(-width // 100))
        expected = BOXES[:3] * [width, high, width, high]
        assert found.boxes == pytest.approx(expected.clip(0, [width, height] * 2), abs=1e-3)
        assert found.scores[1:] / found.scores[0] == pytest.approx(SCORES[1:3] / SCORES[0])
        assert found.labels.tolist() == LABELS[:3].tolist()
        pasted = PastedMasks(MASKS, expected.astype(np.float32), (height, width))
        assert len(found.masks) == 3
        for mask, wanted in zip(found.masks, pasted, strict=False):
            assert mask.shape == (height, width)
            assert (mask != wanted).mean() < 0.01
    assert found.masks[0].any()


def test_a_model_without_masks_gives_none(tmp_path: Path) -> None:
    (found,) = OnnxModel(write_detector(tmp_path / 'model.onnx', SIZE, masks=False)).predict([noise(50, 50)])
    assert found.masks is None


def test_a_label_map_without_resizing_is_the_output_itself(tmp_path: Path) -> None:
    image = noise(30, 64)
    (labels,) = OnnxModel(write_segmentor(tmp_path / 'model.onnx', SIZE)).predict([image])
    assert np.array_equal(labels, image[..., 2] % 3)


@pytest.mark.parametrize('shape', SHAPES)
def test_a_label_map_has_the_size_of_the_image_and_no_padding(tmp_path: Path, shape: tuple[int, int]) -> None:
    model = OnnxModel(write_segmentor(tmp_path / 'model.onnx', SIZE, preprocessing=STRETCH))
    left, right = (
        np.full((shape[0], width, 3), value, np.uint8) for value, width in ((3, 20), (2, shape[1]))
    )
    image = np.concatenate([left, right], axis=1)[:, : shape[1]]
    for (labels,) in (
        OnnxModel(write_segmentor(tmp_path / 'fit.onnx', SIZE)).predict([image]),
        model.predict([image]),
    ):
        assert labels.shape == shape
        assert set(np.unique(labels)) == {0, 2}, 'nothing between them'
        assert labels[-1, -1] == 2, 'no padding'
        assert np.ptp(np.flatnonzero(np.diff(labels[0]))) == 0
        assert abs(int(np.argmax(labels[0] == 2)) - 20) <= shape[1] / SIZE[1] + 1


def test_scores_of_classes_are_of_red_green_and_blue(tmp_path: Path) -> None:
    image = np.full((50, 60, 3), (10, 20, 70), np.uint8)  # BGR
    (scores,) = OnnxModel(write_classifier(tmp_path / 'model.onnx', (32, 32))).predict([image])
    assert scores == pytest.approx([0.7, 0.2, 0.1])


def test_files_that_cannot_be_run_are_refused_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = write_classifier(tmp_path / 'model.onnx', (32, 32))
    (tmp_path / 'text.onnx').write_text('no model')
    (tmp_path / 'cut.onnx').write_bytes(whole.read_bytes()[:-300])
    (tmp_path / 'empty.onnx').touch()
    for name in ('text', 'cut', 'empty'):
        with pytest.raises(
            UserError, match=rf'{name}.onnx: cannot be opened as an ONNX file \(.*; export it'
        ):
            OnnxModel(tmp_path / f'{name}.onnx')
    for name, reason in {'gone.onnx': 'No such file', '': 'Is a directory'}.items():
        with pytest.raises(UserError, match=rf'cannot be read \({reason}.*; give a file'):
            OnnxModel(tmp_path / name)
    model = onnx.load(whole)
    for name, text in (('damaged', '{'), ('changed', '3')):
        model.metadata_props[1].value = text
        onnx.save(model, tmp_path / f'{name}.onnx')
    del model.metadata_props[1]
    onnx.save(model, tmp_path / 'other.onnx')
    model = onnx.load(whole)
    renamed = model.SerializeToString().replace(b'image', b'photo')
    (tmp_path / 'renamed.onnx').write_bytes(renamed)
    for name in ('damaged', 'changed', 'other', 'renamed'):
        with pytest.raises(
            UserError, match=f'{name}.onnx: lacks the inputs or the task, classes, .* of an exported model'
        ):
            OnnxModel(tmp_path / f'{name}.onnx')
    monkeypatch.setattr(sys, 'path', [])
    monkeypatch.delitem(sys.modules, 'onnxruntime')
    with pytest.raises(UserError, match='pip install onnxruntime'):
        OnnxModel(whole)


def test_a_name_that_is_not_utf_8_is_opened(tmp_path: Path) -> None:
    path = write_classifier(tmp_path / 'model.onnx', (32, 32)).rename(tmp_path / '葡萄-\udce9.onnx')
    assert OnnxModel(path).task == 'classification'
