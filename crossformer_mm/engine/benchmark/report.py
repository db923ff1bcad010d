"""Tables of what was measured, for a terminal and for Markdown alike."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

from .pipeline import stall_ratio
from .timing import growth_exponent, median_ratio, ratio_of_medians, spread

Record = dict[str, Any]

SIZES_FOR_EXPONENT = 3


def layout(rows: Sequence[Sequence[str]]) -> str:
    """Lay rows out as a table in Markdown that reads well unrendered too.

    Args:
        rows: The headings, then each line's cells; the first column to the left, the others to the right.

    Returns:
        The lines.
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    rules = ['-' * widths[0], *('-' * (width - 1) + ':' for width in widths[1:])]
    lines = [_line(row, widths) for row in rows]
    return '\n'.join([lines[0], _line(rules, widths), *lines[1:]])


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    first, *others = zip(cells, widths, strict=True)
    return f'| {" | ".join([first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in others)])} |'


def setting_name(setting: dict[str, Any]) -> str:
    """A setting in words, such as ``inference, float32, 1×3×800×1216``."""
    mode = {'train': 'training step'}.get(setting['mode'], setting['mode'])
    return f'{mode}, {setting["dtype"]}, {setting["batch"]}×3×{setting["height"]}×{setting["width"]}'


def comparison(records: Iterable[Record], against: str | None) -> str:
    """The tables of a comparison.

    Args:
        records: What :func:`~crossformer_mm.benchmark.compare` returned.
        against: The label that the others are measured by; None leaves the ratios out.

    Returns:
        One for times, one for memory, one for growth with size: those that there is something for.
    """
    records = list(records)
    tables = [_times(records, against), _memory(records, against), _growth(records)]
    return '\n\n'.join(layout(rows) for rows in tables if len(rows) > 1)


def _times(records: Iterable[Record], against: str | None) -> list[list[str]]:
    columns = ['median s', 'fastest', 'quartiles', 'ratio', 'ratio by round']
    rows = [['network', *columns, 'G multiply-adds', 'of matrix speed']]
    for record in records:
        timed = {label: found for label, found in record['subjects'].items() if found.get('seconds')}
        if timed:
            rows.append([f'*{setting_name(record["setting"])}*', *[''] * (len(rows[0]) - 1)])
        for label, found in timed.items():
            seconds = spread(found['seconds'])
            ratios = ['', '']
            if against and label != against:
                pair = (found['seconds'], timed[against]['seconds'])
                ratios = [f'{ratio_of_medians(*pair):.2f}', f'{median_ratio(*pair):.2f}']
            share = matrix_share(found, record['product'])
            rows.append(
                [
                    label,
                    f'{seconds.median:.3f}',
                    f'{seconds.lowest:.3f}',
                    f'{seconds.lower_quartile:.3f}–{seconds.upper_quartile:.3f}',
                    *ratios,
                    f'{found["multiply_adds"] / 1e9:.1f}',
                    f'{share:.0%}',
                ]
            )
    return rows


def matrix_share(found: dict[str, Any], product: dict[str, Any]) -> float:
    """The rate of multiply-adds over that of a plain matrix product, by medians."""
    time = ratio_of_medians(product['seconds'], found['seconds'])
    return time * found['multiply_adds'] / product['multiply_adds']


def _memory(records: Iterable[Record], against: str | None) -> list[list[str]]:
    rows = [['network', 'peak above the start, MB', 'ratio']]
    for record in records:
        peaks = {
            label: found['peak_bytes']
            for label, found in record['subjects'].items()
            if found.get('peak_bytes') is not None
        }
        if peaks:
            rows.append([f'*{setting_name(record["setting"])}*', '', ''])
        for label, peak in peaks.items():
            ratio = f'{peak / peaks[against]:.2f}' if against and label != against else ''
            rows.append([label, f'{peak / 1e6:,.0f}', ratio])
    return rows


def growth(records: Iterable[Record]) -> dict[tuple[str, str], tuple[list[int], list[float]]]:
    """Where one network was timed at three or more sizes: its pixels and median seconds.

    Args:
        records: What was measured.

    Returns:
        Pixels and seconds, in the order of measuring, by the label and the rest of the setting in words.
    """
    lines: dict[tuple[str, str], tuple[list[int], list[float]]] = defaultdict(lambda: ([], []))
    for record in records:
        setting = record['setting']
        for label, found in record['subjects'].items():
            if found.get('seconds'):
                pixels, seconds = lines[label, f'{setting["mode"]}, {setting["dtype"]}']
                pixels.append(setting['batch'] * setting['height'] * setting['width'])
                seconds.append(spread(found['seconds']).median)
    return {key: line for key, line in lines.items() if len(set(line[0])) >= SIZES_FOR_EXPONENT}


def _growth(records: Iterable[Record]) -> list[list[str]]:
    rows = [['network', 'setting', 'sizes', 'time grows with pixels to the power of']]
    for (label, setting), (pixels, seconds) in growth(records).items():
        rows.append([label, setting, str(len(pixels)), f'{growth_exponent(pixels, seconds):.3f}'])
    return rows


def sizes_table(records: Iterable[Record], against: str | None) -> str:
    """The table of many sizes in a row against one.

    Args:
        records: What :func:`~crossformer_mm.benchmark.sizes.measure_sizes` returned.
        against: Has no part in this: every network is measured by itself.

    Returns:
        The lines.
    """
    columns = ['s a million pixels, many sizes', 'one size', 'ratio', 'ratio by round']
    rows = [['network', *columns]]
    for record in records:
        rows.append([f'*{setting_name(record["setting"])}*', *[''] * len(columns)])
        for label, found in record['subjects'].items():
            pair = (found['many'], found['one'])
            cells = [f'{spread(times).median:.3f}' for times in pair]
            rows.append([label, *cells, f'{ratio_of_medians(*pair):.2f}', f'{median_ratio(*pair):.2f}'])
    return layout(rows)


def operators_table(records: Iterable[Record], against: str | None) -> str:
    """The tables of time by kind of operator, one a setting.

    Args:
        records: What :func:`~crossformer_mm.benchmark.operators.measure_operators` returned.
        against: Has no part in this.

    Returns:
        The lines.
    """
    return '\n\n'.join(layout(_operator_rows(record)) for record in records)


def _operator_rows(record: Record) -> list[list[str]]:
    subjects = record['subjects']
    totals = {label: sum(seconds.values()) for label, seconds in subjects.items()}
    kinds = Counter()
    for seconds in subjects.values():
        kinds.update(seconds)
    rows = [[f'{setting_name(record["setting"])}: s', *subjects]]
    for kind, _ in kinds.most_common():
        cells = (
            f'{seconds.get(kind, 0):.3f} ({seconds.get(kind, 0) / totals[label]:.0%})'
            for label, seconds in subjects.items()
        )
        rows.append([kind, *cells])
    return [*rows, ['all', *(f'{total:.3f}' for total in totals.values())]]


def pipeline_table(records: Iterable[Record], against: str | None) -> str:
    """The table of images a second by worker processes.

    Args:
        records: What :func:`~crossformer_mm.benchmark.pipeline.measure_pipeline` returned.
        against: Has no part in this.

    Returns:
        The lines.
    """
    steps = ['paced step s', 'median with wait', '95th percentile / median']
    rows = [['config', 'workers', 'images/s', *steps]]
    for record in records:
        for workers, found in record['workers'].items():
            cells = [f'{found["step_seconds"]:.3f}', f'{spread(found["seconds"]).median:.3f}']
            pace = f'{stall_ratio(found["seconds"]):.2f}'
            rows.append([record['config'], workers, f'{found["images_per_second"]:.1f}', *cells, pace])
    return layout(rows)
