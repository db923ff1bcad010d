"""The pictures: ground truth left, predictions right, from real files."""

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from matplotlib.figure import Figure
from pycocotools import mask as coco_mask

from crossformer_mm.data.shapes import write_coco
from crossformer_mm.evaluation.objects import DrawnObject, ResultPictures, draw_objects
from crossformer_mm.evaluation.segmentation_plots import plot_ious


@pytest.fixture(scope='module')
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp('pictures')
    write_coco(root, train=1, val=3, size=64)
    return root


def pictures(root: Path, results: list[dict[str, Any]]) -> ResultPictures:
    path = root / 'results.json'
    path.write_text(json.dumps(results))
    return ResultPictures(root / 'annotations/instances_val2017.json', path, root / 'val2017')


def result(root: Path, score: float) -> dict[str, Any]:
    """The first object of the first image as a prediction, without a mask."""
    content = json.loads((root / 'annotations/instances_val2017.json').read_text())
    first = content['annotations'][0]
    keys = ('image_id', 'category_id', 'bbox')
    return {**{key: first[key] for key in keys}, 'score': score}


def with_mask(record: dict[str, Any]) -> dict[str, Any]:
    """A mask over the whole image: one run of no pixels, one of all, in COCO's encoding."""
    encoded = coco_mask.encode(np.ones((64, 64), np.uint8, order='F'))
    return {**record, 'segmentation': {**encoded, 'counts': encoded['counts'].decode()}}


def panels(folder: Path, image: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Left and right half of one image's picture."""
    picture = cv2.imread(str(folder / f'{image:012}.png')).astype(int)
    half = picture.shape[1] // 2
    return picture[:, :half], picture[:, -half:]


def test_one_picture_an_image(root: Path, tmp_path: Path) -> None:
    pictures(root, []).save_each(tmp_path / 'each')
    assert sorted(p.name for p in (tmp_path / 'each').iterdir()) == [f'{i:012}.png' for i in (1, 2, 3)]


def test_a_prediction_is_drawn_on_the_right(root: Path, tmp_path: Path) -> None:
    pictures(root, []).save_each(tmp_path / 'none')
    pictures(root, [result(root, 0.9)]).save_each(tmp_path / 'box')
    pictures(root, [with_mask(result(root, 0.9))]).save_each(tmp_path / 'mask')
    left, none = panels(tmp_path / 'none')
    same, box = panels(tmp_path / 'box')
    _, mask = panels(tmp_path / 'mask')
    assert (left == same).all()
    changed_by_box = (none != box).any(-1).mean()
    changed_by_mask = (none != mask).any(-1).mean()
    assert 0 < changed_by_box < 0.4
    assert changed_by_mask > 0.7, 'a mask of the whole image covers it'


def test_the_ground_truth_is_drawn_on_the_left(root: Path, tmp_path: Path) -> None:
    path = root / 'annotations/instances_val2017.json'
    content = json.loads(path.read_text())
    bare = tmp_path / 'bare.json'
    bare.write_text(json.dumps({**content, 'annotations': []}))
    results = tmp_path / 'results.json'
    results.write_text('[]')
    ResultPictures(path, results, root / 'val2017').save_each(tmp_path / 'truth')
    ResultPictures(bare, results, root / 'val2017').save_each(tmp_path / 'bare')
    for image in (1, 2, 3):
        left, right = panels(tmp_path / 'truth', image)
        bare_left, bare_right = panels(tmp_path / 'bare', image)
        assert (left != bare_left).any()
        assert (right == bare_right).all()


def test_a_mask_alone_gets_a_box_around_it(root: Path, tmp_path: Path) -> None:
    whole = {**with_mask(result(root, 0.9)), 'bbox': [0, 0, 64, 64]}
    pictures(root, [whole]).save_each(tmp_path / 'box')
    del whole['bbox']
    pictures(root, [whole]).save_each(tmp_path / 'alone')
    assert (panels(tmp_path / 'box')[1] == panels(tmp_path / 'alone')[1]).all()


def test_low_scores_are_left_out(root: Path, tmp_path: Path) -> None:
    pictures(root, []).save_each(tmp_path / 'none')
    pictures(root, [result(root, 0.49)]).save_each(tmp_path / 'low')
    assert (panels(tmp_path / 'none')[1] == panels(tmp_path / 'low')[1]).all()


def test_sheet_holds_the_first_images(root: Path, tmp_path: Path) -> None:
    sheet = pictures(root, [with_mask(result(root, 0.9))])
    sheet.save_sheet(tmp_path / 'two.png', count=2, pairs=2)
    sheet.save_sheet(tmp_path / 'three.png', count=3, pairs=2)
    two, three = (cv2.imread(str(tmp_path / f'{n}.png')).shape for n in ('two', 'three'))
    assert two[1] == three[1]
    assert three[0] > 1.7 * two[0]


def test_names_are_no_mathematics(tmp_path: Path) -> None:
    """``$x_$`` would be refused, after the whole evaluation."""
    plot_ious(np.array([50.0, 60.0]), ('$x_$', 'b'), tmp_path / 'ious.png')
    figure = Figure()
    draw_objects(
        figure.subplots(), np.zeros((9, 9, 3), np.uint8), [DrawnObject('$x_$', 'C0', [1, 1, 5, 5], None)]
    )
    figure.savefig(tmp_path / 'objects.png')
    assert all(cv2.imread(str(tmp_path / f'{name}.png')) is not None for name in ('ious', 'objects'))
