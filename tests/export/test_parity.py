"""A file that differs from its model is found out."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from export_models import IMAGES, exported, random_model
from mmengine.config import Config
from onnx import numpy_helper

from crossformer_mm.deploy.model import OnnxModel
from crossformer_mm.export.object_parity import compare_objects
from crossformer_mm.export.parity import TOLERANCES, Difference, compare


@pytest.mark.parametrize(
    'kind', ['labels', *(pytest.param(kind, marks=pytest.mark.slow) for kind in ('maps', 'scores'))]
)
def test_a_damaged_file_is_not_accepted(
    tmp_path: Path,
    narrow_segmentor: Callable[[str], Config],
    narrow_classifier: Callable[[str], Config],
    kind: str,
) -> None:
    if kind == 'scores':
        model = random_model(narrow_classifier('crossformer_s_in1k'))
    else:
        model = random_model(narrow_segmentor('fpn_crossformer_s'))
    path, damaged = tmp_path / 'model.onnx', tmp_path / 'damaged.onnx'
    how = 'stretch' if kind == 'scores' else 'fit'
    file = exported(model, path, (40, 40), how, backbone=kind == 'maps')
    proto = onnx.load(path)
    (weight,) = (w for w in proto.graph.initializer if w.name.endswith('patch_embed.projs.0.weight'))
    weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) * 1.1, weight.name))
    onnx.save(proto, damaged)
    assert [
        all(d.is_accepted for d in compare(opened, model, IMAGES, TOLERANCES['float32']).differences)
        for opened in (file, OnnxModel(damaged, threads=1))
    ] == [True, False]


def test_nan_is_not_accepted() -> None:
    assert not Difference('boxes differ by at most', float('nan'), 1.0).is_accepted


def test_a_difference_is_one_line() -> None:
    line = 'boxes differ by at most 0.0012 px (tolerance 0.05)'
    assert str(Difference('boxes differ by at most', 0.00123, 0.05, ' px')) == line


BOXES = np.array([[2, 3, 12, 9], [2, 3, 12, 9], [20, 5, 30, 25]], np.float32)
SCORES, LABELS = np.array([0.9, 0.8, 0.3], np.float32), np.array([0, 1, 1])


def objects(places: int = 5, **changes: np.ndarray) -> dict[str, np.ndarray]:
    """The outputs of a detector's file for an image, with empty places."""
    found = {'boxes': BOXES, 'scores': SCORES, 'labels': LABELS, 'masks': np.ones((3, 28, 28)), **changes}
    empty = {'labels': -1}
    return {
        name: np.concatenate([v, np.full((places - len(v), *v.shape[1:]), empty.get(name, 0), v.dtype)])
        for name, v in found.items()
    }


def in_pytorch() -> dict[str, np.ndarray]:
    masks = np.zeros((3, 40, 40), bool)
    for mask, (left, top, right, bottom) in zip(masks, BOXES.astype(int), strict=True):
        mask[top:bottom, left:right] = True
    return {'bboxes': BOXES, 'scores': SCORES, 'labels': LABELS, 'masks': masks}


def test_equal_objects_have_no_differences() -> None:
    found = compare_objects(objects(), in_pytorch(), (40, 40), 1e-4)
    assert found == (3, 0, 0, 0, 0, 60 + 60 + 200)
    swapped = objects(boxes=BOXES[[1, 0, 2]], labels=LABELS[[1, 0, 2]], scores=SCORES[[1, 0, 2]])
    assert compare_objects(swapped, in_pytorch(), (40, 40), 1e-4) == found


def test_differences_of_objects_are_measured() -> None:
    moved = objects(boxes=BOXES + np.float32([0, 0, 0.5, 0]), scores=SCORES * np.float32(0.5))
    found = compare_objects(moved, in_pytorch(), (40, 40), 1e-4)
    assert (found.objects, found.alone, found.boxes) == (3, 0, 0.5)
    assert found.scores == pytest.approx(0.45)
    half = objects(masks=np.ones((3, 28, 28)) * (np.arange(28) < 14))
    assert compare_objects(half, in_pytorch(), (40, 40), 1e-4).mask_pixels == 160


def test_objects_that_only_one_finds_are_counted() -> None:
    for change in ({'labels': np.array([0, 2, 1])}, {'boxes': BOXES + np.float32([[0], [8], [0]])}):
        assert compare_objects(objects(**change), in_pytorch(), (40, 40), 1e-4).alone == 2
    nothing = {name: values[:0] for name, values in in_pytorch().items()}
    assert compare_objects(objects(), nothing, (40, 40), 1e-4).alone == 3
    assert compare_objects(objects(labels=np.full(3, -1), scores=SCORES * 0), nothing, (40, 40), 1e-4)[
        :2
    ] == (0, 0)


def test_an_object_at_another_place_is_another_one() -> None:
    moved = objects(boxes=BOXES + np.float32([[0], [0], [1]]))
    for farthest, found in ((1.5, (3, 0)), (0.5, (3, 2))):
        differences = compare_objects(moved, in_pytorch(), (40, 40), 1e-4, farthest)
        assert differences[:2] == found
        assert differences.boxes <= farthest


def test_an_object_is_the_same_as_one_other() -> None:
    twice = {name: values[[0, 0]] for name, values in in_pytorch().items()}
    one = objects(boxes=BOXES[:1], scores=SCORES[:1], labels=LABELS[:1], masks=np.ones((1, 28, 28)))
    assert compare_objects(one, twice, (40, 40), 1e-4)[:2] == (2, 1)


def test_objects_at_the_lowest_score_may_be_missing() -> None:
    one = {name: values[:1] for name, values in in_pytorch().items()}
    for lowest, alone in ((0.05005, 0), (0.051, 1)):
        ours = objects(scores=np.array([0.9, lowest, 0.05], np.float32))
        assert compare_objects(ours, one, (40, 40), 1e-4).alone == alone
    full = objects(places=3, labels=np.array([0, 1, 2]))  # both have no more places
    assert compare_objects(full, in_pytorch(), (40, 40), 1e-4).alone == 0


def test_unsure_objects_may_be_missing_where_scores_may_differ() -> None:
    lost = objects(labels=np.array([0, 2, 2]))  # of the scores 0.8 and 0.3
    assert compare_objects(lost, in_pytorch(), (40, 40), 1e-4)[:2] == (3, 4)
    assert compare_objects(lost, in_pytorch(), (40, 40), 0.45)[:2] == (2, 2)
