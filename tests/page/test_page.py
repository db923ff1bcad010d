"""A page of one file: text is escaped, elements are closed, charts have the values."""

import math
import re

import numpy as np
import pytest
from page_files import ReadPage

from crossformer_mm.evaluation.classification_report import ClassificationReport
from crossformer_mm.evaluation.segmentation_report import SegmentationReport
from crossformer_mm.page.chart import Line, line_chart
from crossformer_mm.page.class_sections import class_sections, confusions
from crossformer_mm.page.html import bar, element, facts, number, page, section, table

EVIL = '<script>alert("1")</script> & \x1b[31m \u202e歩行者'


def test_text_from_anywhere_is_escaped() -> None:
    body = [section(EVIL, facts([(EVIL, EVIL)]), table([EVIL], [[EVIL]])), element('p', EVIL, title=EVIL)]
    read = ReadPage(page(EVIL, *body))
    assert read.tags.count('script') == 1, "the page's own"
    shown = '<script>alert("1")</script> & \\x1b[31m \\u202e歩行者'
    assert read.text.count(shown) == 7
    assert read.rows == [[shown], [shown]]


def test_sections_and_lists_without_content_are_left_out() -> None:
    assert section('title', facts([('a', ''), ('b', '')])) == ''
    assert 'none' not in section('title', '', element('p', 'x'))


def test_numbers_that_are_not_finite_are_dashes() -> None:
    assert [number(value) for value in (0.12345, math.nan, math.inf)] == ['0.123', '–', '–']
    assert 'width:50.0%' in bar(0.5)


def test_a_chart_leaves_a_gap_where_there_is_no_number() -> None:
    points = [(1.0, 2.0), (2.0, 4.0), (3.0, math.nan), (4.0, 1.0), (5.0, 3.0), (6.0, math.nan), (7.0, 2.0)]
    chart = line_chart('title', 'epoch', [Line('a & b', points)], (0, None))
    drawn = re.findall(r'points="([^"]+)" class="line c0"', chart)
    assert [len(line.split()) for line in drawn] == [2, 2, 2], 'two runs, and the key of the legend'
    assert chart.count('<circle') == 1, 'the last point, which is alone'
    assert 'a &amp; b' in chart
    heights = [float(pair.split(',')[1]) for line in drawn[:2] for pair in line.split()]
    assert np.argsort(heights).tolist() == np.argsort([-2, -4, -1, -3]).tolist()


@pytest.mark.parametrize('points', [[], [(1.0, math.nan)]])
def test_a_chart_without_numbers_is_left_out(points: list[tuple[float, float]]) -> None:
    assert line_chart('title', 'epoch', [Line('a', points)]) == ''


@pytest.mark.parametrize('value', [0.0, 3.0, -2.0])
def test_a_constant_is_drawn(value: float) -> None:
    chart = line_chart('title', 'epoch', [Line('a', [(1.0, value), (2.0, value)])])
    assert 'nan' not in chart
    assert '<polyline' in chart


@pytest.mark.parametrize(('most', 'shown'), [(2e-4, '1.6e-4'), (9e-8, '8e-8'), (2e5, '1.6e5'), (1.0, '0.8')])
def test_the_numbers_of_an_axis_fit_beside_it(most: float, shown: str) -> None:
    chart = line_chart('title', 'iteration', [Line('', [(1.0, 0.0), (2.0, most)])], (0, None))
    beside = re.findall(r'text-anchor="end">([^<]+)<', chart)
    assert shown in beside
    assert max(map(len, beside)) <= 6


def test_epochs_are_whole_numbers_on_the_axis() -> None:
    for points in ([(1.0, 0.5)], [(1.0, 0.5), (2.0, 0.6)]):
        chart = line_chart('title', 'epoch', [Line('', points)], (0, None))
        assert re.findall(r'text-anchor="middle">([^<]+)<', chart) == ['1', '2', 'epoch']


def test_long_lines_are_means() -> None:
    points = [(float(step), float(step % 2)) for step in range(100_000)]
    chart = line_chart('title', 'iteration', [Line('', points)], (0, 1))
    (line,) = re.findall(r'points="([^"]+)"', chart)
    assert len(line.split()) == 400
    assert len({pair.split(',')[1] for pair in line.split()}) == 1


def test_a_confusion_matrix_of_few_classes() -> None:
    counts = np.array([[8, 2], [0, 0]])
    read = ReadPage(page('', confusions(counts, ['a', 'b'], ['a', 'b'])))
    assert read.rows[1:] == [['a', '8', '2'], ['b', '', '']]
    read = ReadPage(page('', confusions(counts, ['a', 'b'], ['a', 'b'], percent=True)))
    assert read.rows[1:] == [['a', '80.0', '20.0'], ['b', '', '']]


@pytest.mark.parametrize('classes', [150, 1000])
def test_many_classes_are_pairs(classes: int) -> None:
    names = [f'class {label}' for label in range(classes)]
    counts = np.diag(np.full(classes, 30))
    counts[7, 9], counts[140, 2] = 10, 20
    read = ReadPage(text := page('', confusions(counts, names, names)))
    pairs = [['class 140', 'class 2', '20', '40.0'], ['class 7', 'class 9', '10', '25.0']]
    assert read.rows[1:] == pairs
    assert len(text) < 20_000
    assert 'No confusions' in confusions(np.diag([1] * classes), names, names)


def test_classes_of_a_segmentor() -> None:
    metric = SegmentationReport()
    metric.dataset_meta = {'classes': ('<b>', 'never', 'absent')}
    assert class_sections(metric, metric.dataset_meta['classes']) == ''
    numbers = metric.compute_metrics([(np.array([0, 1, 4]), np.array([6, 2, 2]))])
    read = ReadPage(page('', class_sections(metric, metric.dataset_meta['classes'])))
    assert read.rows[1:4] == [
        ['<b>', '75.00', '75.00', '80.00'],
        ['never', '50.00', '100.00', '20.00'],
        ['absent', '–', '–', '0.00'],
    ]
    assert numbers['mIoU'] == (75 + 50) / 2


@pytest.mark.parametrize('invalid', [False, True])
def test_classes_of_a_classifier(invalid: bool) -> None:
    metric = ClassificationReport()
    metric.dataset_meta = {'classes': ('cat', 'dog')}
    results = [('a.png', 0, [0, 1], [0.9, 0.1]), ('b.png', 0, [1, 0], [0.8, 0.2])]
    if invalid:
        results.append(('c.png', 1, [], []))
    numbers = metric.compute_metrics(results)
    read = ReadPage(page('', class_sections(metric, ('cat', 'dog'))))
    assert read.rows[1][:3] == ['cat', '2', '50.00']
    assert read.rows[2][2] == ('0.00' if invalid else '–')
    assert ('none (NaN)' in read.rows[3]) == invalid
    assert numbers['accuracy/top1'] == pytest.approx(100 / len(results))
