"""Annotation files with random damage give a one-line error, or data that training loads."""

import contextlib
import copy
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mmdet.registry import DATASETS
from mmengine.config import Config
from mmengine.registry import init_default_scope
from pycocotools import mask as coco_mask

from crossformer_mm.data.classes import read_data, set_classes, set_copies
from crossformer_mm.data.coco import read_coco
from crossformer_mm.data.coco_masks import mask_fault
from crossformer_mm.data.options import DataOptions, set_data_paths
from crossformer_mm.utils.errors import UserError

DROPPED = object()
VALUES = st.sampled_from(
    [
        *(DROPPED, None, True, False, '', 'word', '\ud800', 'a\0b', 'x' * 5000),
        *([], {}, [[]], [None], {'size': [64, 64]}),
        *(0, -1, 1, 2, 63, 10**9, -(10**9), 10**30, 10**400, 0.5, 1e300, -1e300),
        *(float('nan'), float('inf'), [0, 0, 0, 0], [1, 2, 3, 4, 5, 6], [[1, 2, 3, 4, 5, 6]], [['a'] * 6]),
        *({'size': [64, 64], 'counts': [4096]}, {'size': [64, 64], 'counts': '1'}, {'counts': [-1, 4097]}),
        *([[1e308] * 6], [[float('nan')] * 6], [-5, -5, 1e9, 1e9], [True] * 4),
    ]
)


def paths_in(value: Any, path: tuple = ()) -> list[tuple]:
    """The paths to everything in a JSON value, of lists to the first two entries."""
    found = [path] if path else []
    pairs = {dict: dict.items, list: lambda items: enumerate(items[:2])}.get(type(value), lambda _: ())
    for key, part in pairs(value):
        found += paths_in(part, (*path, key))
    return found


def mutated(content: dict, path: tuple, value: Any) -> dict:
    content = copy.deepcopy(content)
    part = content
    for key in path[:-1]:
        part = part[key]
    if value is DROPPED:
        del part[path[-1]]
    else:
        part[path[-1]] = value
    return content


@pytest.fixture(scope='module')
def content(coco_root: Path) -> dict:
    """A valid file of few objects with polygons, run lengths and compressed run lengths."""
    data = json.loads((coco_root / 'annotations/instances_train2017.json').read_text())
    data['annotations'] = data['annotations'][:6]
    mask = np.zeros((64, 64), np.uint8, order='F')
    mask[5:20, 7:30] = 1
    counts = [7 * 64 + 5, *[15, 49] * 22, 15, 64 * 64 - (7 * 64 + 5) - 22 * 64 - 15]
    for annotation, runs in zip(
        data['annotations'][1:3], (counts, coco_mask.encode(mask)['counts'].decode()), strict=True
    ):
        annotation['segmentation'] = {'size': [64, 64], 'counts': runs}
    return data


@pytest.mark.slow
def test_an_error_or_data(
    content: dict, config: Callable[[str], Config], coco_root: Path, tmp_path: Path
) -> None:
    cfg = config('mask_rcnn_crossformer_s')
    init_default_scope('mmdet')
    path = tmp_path / 'mutated.json'
    set_data_paths(cfg, DataOptions(data_root=str(coco_root), train_ann=str(path)))
    cfg.val_dataloader = None
    outcomes = {'error': 0, 'data': 0, 'repaired': 0}

    @settings(
        max_examples=400,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.sampled_from(paths_in(content)), VALUES | st.integers(0, 64) | st.floats(0, 64))
    def run(where: tuple, value: Any) -> None:
        path.write_text(json.dumps(mutated(content, where, value)))
        read_coco(path, report=lambda problem: None)  # goes through the whole file, as the full check does
        cfg.train_dataloader.dataset.ann_file = str(path)
        try:
            data = read_data(cfg, ['train_dataloader'], copies=tmp_path / 'copies')
            set_copies(cfg, data.copies)
            set_classes(cfg, data.classes)
        except UserError as error:
            assert '\n' not in str(error)
            outcomes['error'] += 1
            return
        with contextlib.redirect_stdout(io.StringIO()):
            dataset = DATASETS.build(cfg.train_dataloader.dataset)
            for index in range(len(dataset)):
                boxes = dataset[index]['data_samples'].gt_instances.bboxes
                assert boxes.tensor.isfinite().all()
        outcomes['repaired' if data.copies else 'data'] += 1

    run()
    assert min(outcomes.values()) > 20, outcomes


def test_no_mask_passes_that_pycocotools_could_not_draw() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        mask = np.asfortranarray(rng.random((13, 17)) < rng.random(), np.uint8)
        text = coco_mask.encode(mask)['counts'].decode()
        assert mask_fault({'size': [13, 17], 'counts': text}, 13, 17) is None
        changed = rng.integers(len(text))
        other = text[:changed] + chr(rng.integers(32, 128)) + text[changed + 1 :]
        if mask_fault({'size': [13, 17], 'counts': other}, 13, 17) is None:
            drawn = coco_mask.decode({'size': [13, 17], 'counts': other})
            assert drawn.shape == mask.shape
        assert mask_fault({'size': [13, 17], 'counts': text[:-1]}, 13, 17)
