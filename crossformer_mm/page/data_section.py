"""What the data of a training contains, for a page."""

from collections.abc import Sequence
from statistics import median

from ..data.label_check import LabelReport
from ..data.summary import Contents
from ..utils.text import short_name
from .html import Html, bar, element, facts, join, number, table


def describe_contents(split: str, contents: Contents, classes: Sequence[str]) -> Html:
    """The number and sizes of a split's images, and of the objects of each class.

    Args:
        split: Its name.
        contents: What it contains.
        classes: The class names.
    """
    every = contents.read == contents.images
    of = '' if every else f' (in {contents.read:,} evenly spaced images)'
    total = sum(contents.counts.values()) if contents.counts else 0
    pairs = [('images', f'{contents.images:,}')]
    if contents.objects:
        pairs.append(('objects', f'{total:,}{of}'))
    pairs.append(('image sizes', _sizes(contents.sizes)))
    parts = [element('h3', split), facts(pairs)]
    if contents.counts is not None:
        unit = 'objects' if contents.objects else 'images'
        shown = [(name, contents.counts.get(label, 0)) for label, name in enumerate(classes)]
        parts.append(_bars(shown, unit + of))
    return join(parts)


def describe_labels(report: LabelReport) -> Html:
    """The share of the pixels of each class in a folder of label maps."""
    total = sum(report.pixels.values()) or 1
    rule = report.rule
    names = [*rule.classes, 'ignored']
    shares = dict.fromkeys(names, 0.0)
    for value, pixels in report.pixels.items():
        shares[rule.name_of(value) or 'ignored'] += 100 * pixels / total
    maps = f'{report.maps:,} label maps' + (
        '' if report.maps == report.maps_read else f', {report.maps_read:,} of them read'
    )
    unit = 'pixels, %'
    return join([element('h3', f'{report.folder}: {maps}'), _bars([*shares.items()], unit, digits=2)])


def _bars(counts: Sequence[tuple[str, float]], unit: str, digits: int = 0) -> Html:
    most = max((count for _, count in counts), default=0) or 1
    rows = [[short_name(name), number(count, digits), bar(count / most)] for name, count in counts]
    return table(['class', unit, ''], rows)


def _sizes(sizes: Sequence[tuple[int, int]]) -> str:
    """Describe the widths and heights of images."""
    if not sizes:
        return ''
    if len(set(sizes)) == 1:
        return '{}×{}'.format(*sizes[0])
    widths, heights = zip(*sizes, strict=True)
    low, middle, high = (f'{round(of(widths))}×{round(of(heights))}' for of in (min, median, max))
    return f'{low} to {high}, median {middle} (width×height)'
