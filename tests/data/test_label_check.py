"""Reports about the content of label maps."""

import re
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from mmseg.datasets.transforms import LoadAnnotations
from PIL import Image

from crossformer_mm.data.label_check import IGNORED, LabelReport, LabelRule, inspect_labels
from crossformer_mm.data.label_files import find_pairs
from crossformer_mm.data.problems import Problem
from crossformer_mm.utils import progress

THREE = LabelRule(('sky', 'road', 'car'))
THREE_AFTER_ZERO = LabelRule(('sky', 'road', 'car'), reduce_zero_label=True)


@pytest.fixture
def inspect(tmp_path: Path) -> Callable[..., LabelReport]:
    """A function from a rule and the values of maps, each for 2×2 pixels, to the report."""
    for folder in ('images', 'maps'):
        (tmp_path / folder).mkdir()

    def inspect(rule: LabelRule, *maps: list[int] | np.ndarray, **options: int) -> LabelReport:
        for i, values in enumerate(maps):
            label_map = np.atleast_2d(np.array(values, getattr(values, 'dtype', np.uint8)))
            label_map = label_map.repeat(2, 0).repeat(2, 1)
            Image.fromarray(label_map).save(tmp_path / 'maps' / f'{i}.png')
            Image.new('RGB', label_map.shape[::-1]).save(tmp_path / 'images' / f'{i}.jpg')
        pairs = find_pairs(tmp_path / 'images', tmp_path / 'maps')
        return inspect_labels(pairs, tmp_path / 'maps', rule, **options)

    return inspect


def said(problems: list[Problem]) -> list[str]:
    return [problem.what for problem in problems]


@pytest.mark.parametrize('reduce', [False, True])
@pytest.mark.parametrize('label_map', [None, {2: IGNORED}, {0: 1, 1: 0}])
def test_labels_are_those_that_the_toolbox_loads(
    tmp_path: Path, reduce: bool, label_map: dict[int, int] | None
) -> None:
    Image.fromarray(np.arange(256, dtype=np.uint8)[None]).save(tmp_path / 'all.png')
    start = {'seg_map_path': str(tmp_path / 'all.png'), 'seg_fields': []}
    loaded = LoadAnnotations()({**start, 'reduce_zero_label': reduce, 'label_map': label_map})['gt_seg_map']
    rule = LabelRule(('a', 'b', 'c'), reduce, label_map or {})
    assert [rule.label_of(value) for value in range(256)] == loaded.tolist()


def test_names_of_values() -> None:
    rule = LabelRule(('a', 'b'), True, {4: IGNORED})
    assert [rule.name_of(value) for value in (-1, 0, 1, 2, 3, 5, 255, 256)] == [
        *(None, 'ignored', 'a', 'b', None, 'ignored', 'ignored', None)
    ]


def test_sound_maps(inspect: Callable[..., LabelReport], tmp_path: Path) -> None:
    report = inspect(THREE, [0, 0, 1, 255], [[2], [2], [1]])
    assert (report.problems, report.warnings) == ([], [])
    assert report.pixels == {0: 8, 1: 8, 2: 8, 255: 4}
    assert report.maps_with == {0: 1, 1: 2, 2: 1, 255: 1}
    assert list(report.sound.values()) == [(2, 8), (6, 2)]


@pytest.mark.parametrize(
    ('rule', 'values', 'message'),
    [
        (
            THREE,
            [0, 3, 1, 2, 7],
            r'1\.png contains the values 3, 7, which are none of the 3 classes \(0 to 2\) and not ignored',
        ),
        (THREE, [1, 2, 3], 'reduce_zero_label, which is off here'),
        (THREE_AFTER_ZERO, [1, 4], r'value 4, .* \(1 to 3\) .* which is on here'),
        (THREE, np.array([300], np.uint16), 'contains the value 300'),
        (LabelRule(('a', 'b')), [0, 128], 'common causes are masks of 0 and 255'),
        (LabelRule(('a', 'b'), label_map={1: IGNORED}), [0, 1, 2], 'contains the value 2, .*--ignore-label'),
    ],
)
def test_values_outside_the_classes(
    inspect: Callable[..., LabelReport], rule: LabelRule, values: list[int], message: str
) -> None:
    (problem,) = inspect(rule, [1, 1], values).problems
    assert '\n' not in problem.line()
    assert 'wrong reduce_zero_label' in problem.line()
    assert re.search(message, problem.line())


@pytest.mark.parametrize(
    ('rule', 'values', 'alone'),
    [
        (THREE, [0, 255], '0 and 255'),
        (THREE_AFTER_ZERO, [0, 255], '0 and 255'),
        (THREE_AFTER_ZERO, [0], '0'),
        (THREE, [255], '255'),
        (LabelRule(('a', 'b'), label_map={0: IGNORED}), [0], '0'),
    ],
)
def test_masks_of_0_and_255(
    inspect: Callable[..., LabelReport], rule: LabelRule, values: list[int], alone: str
) -> None:
    (problem,) = inspect(rule, values).problems
    assert f'the label maps contain only {alone}: nothing to learn; common causes' in problem.line()


def test_one_class_beside_unlabelled_pixels_is_enough_to_be_measured_by(
    inspect: Callable[..., LabelReport],
) -> None:
    assert inspect(THREE, [1, 255]).problems == []
    assert inspect(THREE_AFTER_ZERO, [0, 1]).problems == []


def test_what_is_probably_not_meant(inspect: Callable[..., LabelReport]) -> None:
    assert said(inspect(THREE, [0, 2]).warnings) == ['1 of 3 classes never occur: road']
    car, zero = said(inspect(THREE_AFTER_ZERO, [0, 1, 2]).warnings)
    assert car == '1 of 3 classes never occur: car'
    assert zero.endswith('turn reduce_zero_label off')
    ignored = LabelRule(THREE.classes, label_map={2: IGNORED})
    assert said(inspect(ignored, [0, 1, 2]).warnings) == [
        'the class car is never learned: its value is the ignored one'
    ]


def test_sizes_that_differ(inspect: Callable[..., LabelReport], tmp_path: Path) -> None:
    inspect(THREE, [[0, 1, 2]], [[0, 1, 2]])
    Image.new('RGB', (2, 3)).save(tmp_path / 'images' / '1.jpg')
    pairs = find_pairs(tmp_path / 'images', tmp_path / 'maps')
    for maps_read in (1, 2):  # from headers alone, and of maps that are read
        (problem,) = inspect_labels(pairs, tmp_path / 'maps', THREE, maps_read=maps_read).problems
        assert 'images/1.jpg has 2×3 pixels and its label map ' in problem.what
        assert 'maps/1.png has 6×2; they must be equal' in problem.what


def test_every_broken_file_is_named(inspect: Callable[..., LabelReport], tmp_path: Path) -> None:
    inspect(THREE, *[[0, 1, 2]] * 4)
    (tmp_path / 'maps' / '1.png').write_bytes(b'no map')
    (tmp_path / 'images' / '2.jpg').write_bytes(b'no image')
    Image.new('RGB', (6, 2)).save(tmp_path / 'maps' / '3.png')
    pairs = find_pairs(tmp_path / 'images', tmp_path / 'maps')
    report = inspect_labels(pairs, tmp_path / 'maps', THREE)
    assert list(report.sound) == pairs[:1]
    assert [what.partition(';')[0].partition(str(tmp_path))[2] for what in said(report.problems)] == [
        '/maps/1.png cannot be read as a label map',
        '/images/2.jpg cannot be read as an image',
        '/maps/3.png is not a label map but a colour image (RGB)',
    ]


def test_of_many_maps_some_are_read_and_it_is_said(inspect: Callable[..., LabelReport]) -> None:
    report = inspect(THREE, *[[i % 3] for i in range(10)], maps_read=4)
    assert report.maps_read == 4
    assert report.pixels == {0: 16}  # every third
    assert len(report.sound) == 4
    assert '10 label maps, 4 evenly spaced ones read;' in report.summary()


def test_a_bar_shows_how_far_many_maps_are(
    inspect: Callable[..., LabelReport], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    inspect(THREE, [0, 1], [2, 2])
    assert capsys.readouterr().err == ''
    monkeypatch.setattr(progress, 'MANY', 2)
    inspect(THREE, [0, 1], [2, 2])
    assert 'check label maps' in capsys.readouterr().err


def test_summary_has_a_line_for_each_class(inspect: Callable[..., LabelReport], tmp_path: Path) -> None:
    """Classes that never occur have one too; of many other values, the first are listed."""
    rule = LabelRule(('sky', 'road', '\x1b[2J'), reduce_zero_label=True)
    report = inspect(rule, [0, 1, 1, 9], [1, 1, 1, 1])
    assert report.summary().splitlines() == [
        f'{tmp_path}/maps: 2 label maps, read; 0 is ignored (reduce_zero_label)',
        '  value    pixels    maps  class',
        '      0   12.500%       1  ignored',
        '      1   75.000%       2  sky',
        '      2    0.000%       0  road',
        '      3    0.000%       0  \\x1b[2J',
        '      9   12.500%       1  not a class',
    ]
    instances = inspect(THREE, np.arange(1000, 1100, dtype=np.uint16))
    *_, last, more = instances.summary().splitlines()
    assert last.split()[0] == '1019'
    assert more.split(maxsplit=1) == ['…', '80 more values outside the classes']


def street(size: int = 400) -> np.ndarray:
    """A label map of shapes with slanted edges, numbered 0, 40, 80, …"""
    values = np.zeros((size, size), np.uint8)
    for i, centre in enumerate(np.random.default_rng(0).integers(0, size, (20, 2)).tolist()):
        cv2.circle(values, centre, size // 8, i % 6 * 40, -1)
    return values


def poles(size: int = 400) -> np.ndarray:
    """A label map with a class of objects that are one pixel wide, 5 between 2 and 8."""
    values = np.full((size, size), 2, np.uint8)
    values[: size // 4] = 10
    for x in range(10, size, 20):
        values[size // 8 :, x], values[size // 4 :, x + 1 : x + 10] = 5, 8
    return values


BLURRED = {
    'as drawn': (lambda v: v, False),
    'resized by nearest neighbour': (
        lambda v: cv2.resize(v, (250, 330), interpolation=cv2.INTER_NEAREST),
        False,
    ),
    'enlarged by nearest neighbour': (lambda v: v.repeat(3, 0).repeat(3, 1), False),
    'with outlines of another class': (
        lambda v: np.where(cv2.Canny(v, 10, 10) > 0, 230, v).astype(np.uint8),
        False,
    ),
    'thin objects': (lambda v: poles(), False),
    'thin objects, reduced by interpolation': (lambda v: cv2.resize(poles(), (250, 330)), True),
    'reduced by interpolation': (lambda v: cv2.resize(v, (250, 330)), True),
    'enlarged by interpolation': (lambda v: cv2.resize(v, (700, 900)), True),
    'smoothed': (lambda v: cv2.GaussianBlur(v, (3, 3), 0), True),
}


@pytest.mark.parametrize('how', BLURRED)
def test_edges_that_were_blurred(tmp_path: Path, how: str) -> None:
    """With many classes, all values between two classes are classes too."""
    change, blurred = BLURRED[how]
    Image.fromarray(change(street())).save(tmp_path / 'a.png')
    pairs = [(tmp_path / 'a.png', tmp_path / 'a.png')]
    report = inspect_labels(pairs, tmp_path, LabelRule(tuple(map(str, range(250)))))
    assert report.problems == []
    assert [p.kind for p in report.warnings if 'edges' in p.kind] == [
        'label maps with blurred edges'
    ] * blurred


def test_exif_of_images_and_maps(inspect: Callable[..., LabelReport], tmp_path: Path) -> None:
    """Images are turned; label maps are not, which is said once for all."""
    turn = Image.Exif()
    turn[0x0112] = 6
    inspect(THREE, [[0, 1, 2]], [[0, 1, 2]])
    for i in (0, 1):
        Image.new('RGB', (6, 2)).save(tmp_path / 'images' / f'{i}.jpg', exif=turn)
        Image.open(tmp_path / 'maps' / f'{i}.png').save(tmp_path / 'maps' / f'{i}.png', exif=turn)
    pairs = find_pairs(tmp_path / 'images', tmp_path / 'maps')
    for maps_read in (1, 2):
        report = inspect_labels(pairs, tmp_path / 'maps', THREE, maps_read)
        assert all(
            what.endswith('; EXIF turns it: if the annotations are of the stored pixels, give --ignore-exif')
            for what in said(report.problems)
        )
        assert len(report.problems) == 2
        report = inspect_labels(pairs, tmp_path / 'maps', THREE, maps_read, ignore_exif=True)
        assert report.problems == []
        assert said(report.warnings) == [
            f'2 label maps, such as {tmp_path}/maps/0.png, have EXIF data that says to turn them, but their'
            ' stored pixels are used'
        ]
