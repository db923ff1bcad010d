"""``tools/benchmark.py``, from its options to the end."""

import argparse
import json
import re
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from ...utils.errors import UserError
from ...utils.files import check_folder
from . import plot, report
from .compare import Setting, compare
from .machine import describe
from .operators import measure_operators
from .pipeline import measure_pipeline
from .sizes import measure_sizes
from .subjects import GROUPS, SWINS, VARIANTS, Subject, parse_subject
from .workload import DTYPES, MODES

LEAST = {'batch': 1, 'rounds': 1, 'warm_up': 0, 'threads': 1, 'images': 1, 'workers': 0}
SIZE = re.compile(r'(\d+)(?:x(\d+))?')
LARGEST_SIDE = 16384
HEADER = ('cpu', 'cores', 'threads', 'features', 'gpu', 'cuda', 'python', 'versions', 'date')


class Study(NamedTuple):
    """A kind of measurement: how it is made, laid out and drawn."""

    measure: Callable[[argparse.Namespace], list[report.Record]]
    table: Callable[[Sequence[report.Record], str | None], str]
    draw: Callable[[Sequence[report.Record], Path], None]


def benchmark_parser() -> argparse.ArgumentParser:
    """The options."""
    parser = argparse.ArgumentParser(
        description='Measure networks side by side, in turn, in one process.',
        epilog=f'Networks: t s b l pp_s pp_b pp_l pp_h, {" ".join(SWINS)}, or a config of a whole model'
        " (a file, or mmdet::PATH for one of MMDetection's own). NAME+VARIANT changes one of them:"
        f' {" ".join(VARIANTS)}.',
    )
    parser.add_argument(
        '--study',
        choices=STUDIES,
        default='compare',
        help='compare; operators: where the time goes; sizes: images of many sizes in a row;'
        ' pipeline: how fast the training pipelines of configs load images (compare)',
    )
    parser.add_argument('subjects', nargs='+', metavar='NETWORK', help='what to measure')
    parser.add_argument('--against', metavar='NETWORK', help='what to measure them by')
    parser.add_argument('--mode', nargs='+', choices=MODES, default=['inference'], help='(inference)')
    parser.add_argument('--dtype', nargs='+', choices=DTYPES, default=['float32'], help='(float32)')
    parser.add_argument(
        '--size', nargs='+', default=['800x1216'], metavar='HxW', help='pixels; N for N×N (800x1216)'
    )
    parser.add_argument('--batch', type=int, default=1, help='images (1)')
    parser.add_argument('--groups', nargs='+', choices=GROUPS, help='every CrossFormer in each setting')
    parser.add_argument('--with-cp', action='store_true', help='activation checkpointing for all')
    parser.add_argument('--compile', action='store_true', help='torch.compile all backbones')
    parser.add_argument(
        '--measure', nargs='+', choices=['time', 'memory'], default=['time', 'memory'], help='(both)'
    )
    parser.add_argument('--rounds', type=int, default=7, help='timed rounds (7)')
    parser.add_argument('--warm-up', type=int, default=1, help='rounds before, at least 0 (1)')
    parser.add_argument(
        '--workers', type=int, nargs='+', default=[0, 1, 2, 4], help='pipeline: worker processes (0 1 2 4)'
    )
    parser.add_argument('--images', type=int, default=500, help='pipeline: images to load (500)')
    parser.add_argument('--threads', type=int, help="CPU threads (PyTorch's choice)")
    parser.add_argument('--device', default='cpu', help='cpu, or cuda (cpu)')
    parser.add_argument(
        '--out',
        type=Path,
        default=Path('work_dirs', 'benchmark'),
        metavar='STEM',
        help='STEM.json and STEM.png are written (work_dirs/benchmark)',
    )
    return parser


def benchmark(options: argparse.Namespace) -> None:
    """Measure, print a table, and write ``STEM.json`` and ``STEM.png``.

    Args:
        options: What :func:`benchmark_parser` parsed.

    Raises:
        UserError: An option or a network does not work.
    """
    check_options(options)
    if options.threads:
        torch.set_num_threads(options.threads)
    study = STUDIES[options.study]
    result = {
        'command': command(options.out),
        'study': options.study,
        'machine': describe(options.device),
        'against': variants_of(options.against, options)[0].label if options.against else None,
        'records': study.measure(options),
    }
    print(header(result['machine']))
    print(study.table(result['records'], result['against']))
    write(result, options.out)
    study.draw(result['records'], options.out.with_suffix('.png'))
    print(f'\nwrote {options.out.with_suffix(".json")}, {options.out.with_suffix(".png")}')


def command(out: Path) -> str:
    """The command line without where it wrote to."""
    words = [word for word in sys.argv[1:] if word not in ('--out', str(out))]
    return shlex.join(['python', 'tools/benchmark.py', *words])


def check_options(options: argparse.Namespace) -> None:
    """Refuse values that cannot work before anything is measured.

    Raises:
        UserError: One cannot; the message names it.
    """
    for name, least in LEAST.items():
        values = getattr(options, name)
        for value in values if isinstance(values, list) else [values]:
            if value is not None and value < least:
                raise UserError(f'--{name.replace("_", "-")} {value}: must be at least {least}')
    if not re.fullmatch(r'cpu|cuda(:\d+)?', options.device):
        raise UserError(f'--device {options.device}: give cpu, cuda or cuda:N')
    if options.device != 'cpu' and not torch.cuda.is_available():
        raise UserError(f'--device {options.device}: PyTorch sees no GPU here; leave the option out')
    if options.device != 'cpu' and torch.device(options.device).index not in (None, *_gpus()):
        raise UserError(f'--device {options.device}: there are {torch.cuda.device_count()} GPUs')
    check_folder('--out', options.out.parent)


def _gpus() -> range:
    return range(torch.cuda.device_count())


def find_subjects(options: argparse.Namespace) -> list[Subject]:
    """The networks of the command line, ``--against`` last, none twice."""
    names = [*options.subjects, *([options.against] if options.against else [])]
    return list(dict.fromkeys(subject for name in names for subject in variants_of(name, options)))


def variants_of(name: str, options: argparse.Namespace) -> list[Subject]:
    """One network of the command line, in each setting of groups that is asked for."""
    settings = options.groups if options.groups and name.partition('+')[0] not in SWINS else [None]
    words = [name, *['cp'] * options.with_cp, *['compile'] * options.compile]
    return [parse_subject('+'.join([*words, *([groups] if groups else [])])) for groups in settings]


def find_settings(options: argparse.Namespace) -> list[Setting]:
    """Every mode with every dtype and size."""
    return [
        Setting(mode, dtype, *parse_size(size), options.batch, options.device)
        for mode in options.mode
        for dtype in options.dtype
        for size in options.size
    ]


def parse_size(text: str) -> tuple[int, int]:
    """Height and width of ``800x1216`` or ``512``.

    Raises:
        UserError: It is none, or no image has it.
    """
    match = SIZE.fullmatch(text)
    height, width = (int(side or match[1]) for side in match.groups()) if match else (0, 0)
    if not (0 < height <= LARGEST_SIDE and 0 < width <= LARGEST_SIDE):
        raise UserError(f'--size {text}: give HEIGHTxWIDTH in pixels, such as 800x1216, up to {LARGEST_SIDE}')
    return height, width


def header(machine: dict[str, Any]) -> str:
    """The machine and the versions in a few lines."""
    return '\n'.join(f'{name}: {value}' for name, value in words_of(machine)) + '\n'


def words_of(machine: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """The facts of a machine that are there, by name, in words."""
    for name in HEADER:
        value = machine.get(name)
        if isinstance(value, dict):
            yield name, ', '.join(f'{package} {version}' for package, version in value.items())
        elif value:
            yield name, ' '.join(value) if isinstance(value, list) else str(value)


def write(result: dict[str, Any], stem: Path) -> None:
    """Write a result as JSON, into a folder that is made where missing."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    stem.with_suffix('.json').write_text(json.dumps(result, indent=1), encoding='utf-8')


def _compare(options: argparse.Namespace) -> list[report.Record]:
    return compare(
        find_subjects(options),
        find_settings(options),
        options.rounds if 'time' in options.measure else 0,
        options.warm_up,
        'memory' in options.measure,
        options.threads,
    )


def _measure_operators(options: argparse.Namespace) -> list[report.Record]:
    return measure_operators(find_subjects(options), find_settings(options))


def _measure_sizes(options: argparse.Namespace) -> list[report.Record]:
    return measure_sizes(find_subjects(options), find_settings(options), options.rounds)


def _measure_pipeline(options: argparse.Namespace) -> list[report.Record]:
    return measure_pipeline(options.subjects, options.workers, options.images)


STUDIES = {
    'compare': Study(_compare, report.comparison, plot.plot_comparison),
    'operators': Study(_measure_operators, report.operators_table, plot.plot_operators),
    'sizes': Study(_measure_sizes, report.sizes_table, plot.plot_sizes),
    'pipeline': Study(_measure_pipeline, report.pipeline_table, plot.plot_pipeline),
}
