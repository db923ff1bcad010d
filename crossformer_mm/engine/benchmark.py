"""``tools/benchmark.py``: measure speed and memory of backbones side by side."""

import argparse
import difflib
import gc
import itertools
import json
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import mmengine
import numpy as np
import torch
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from mmengine.config import Config
from torch import nn
from torch.utils.benchmark import timer

from ..evaluation.pictures import save_figure
from ..models.arch import ARCHS
from ..models.crossformer import IMAGE_CHANNELS, CrossFormer
from ..models.grouping import LAYOUTS
from ..utils.errors import UserError
from ..utils.files import check_folder
from ..utils.outputs import check_outputs, write_output
from ..utils.progress import progress_bar
from .config import config_folder, quiet_imports
from .flops import flop_counter
from .inferencer import check_device
from .machine import describe_machine, resident_bytes

SWINS: dict[str, dict[str, Any]] = {  # as published and as in MMDetection's configs
    'swin_t': dict(embed_dims=96, depths=(2, 2, 6, 2), num_heads=(3, 6, 12, 24), drop_path_rate=0.2),
    'swin_s': dict(embed_dims=96, depths=(2, 2, 18, 2), num_heads=(3, 6, 12, 24), drop_path_rate=0.2),
    'swin_b': dict(embed_dims=128, depths=(2, 2, 18, 2), num_heads=(4, 8, 16, 32), drop_path_rate=0.3),
}
NETWORKS = (*ARCHS, *SWINS)
# The papers' settings, by the names of the variants.
_GROUPS = Config.fromfile(config_folder() / '_base_' / 'groups.py').items()
GROUPS: dict[str, dict[str, Any]] = {name.removesuffix('_groups'): value for name, value in _GROUPS}
VARIANTS = (*GROUPS, *LAYOUTS, 'cp', 'compile')
LONGEST_SIDE = 16384
WARM_UP_STEPS = 2
MEMORY_STEPS = 2  # in the second, the optimizer's state and the gradients of the first are in memory


def benchmark_parser() -> argparse.ArgumentParser:
    """The options of ``tools/benchmark.py``."""
    parser = argparse.ArgumentParser(
        description='Measure speed and memory of backbones side by side.',
        epilog=f'Networks: {" ".join(NETWORKS)}. NAME+VARIANT changes one: {", ".join(VARIANTS)}; cp is'
        ' activation checkpointing, compile is torch.compile, the others are settings of groups and layouts'
        ' of long distance attention. Variants can be combined: s+window+cp.',
    )
    parser.add_argument('networks', nargs='+', metavar='NETWORK', help='the networks to measure')
    parser.add_argument('--against', metavar='NETWORK', help='a network to compare the others with')
    parser.add_argument(
        '--mode', nargs='+', choices=['inference', 'train'], default=['inference'], help='(inference)'
    )
    parser.add_argument(
        '--dtype', nargs='+', choices=['float32', 'bfloat16'], default=['float32'], help='(float32)'
    )
    parser.add_argument(
        '--size', nargs='+', default=['800x1216'], metavar='HxW', help='in pixels; N means NxN (800x1216)'
    )
    parser.add_argument('--batch', type=int, default=1, help='images in a batch (1)')
    parser.add_argument(
        '--measure', nargs='+', choices=['time', 'memory'], default=['time', 'memory'], help='(both)'
    )
    parser.add_argument('--rounds', type=int, default=7, help='timed steps of each network (7)')
    parser.add_argument('--threads', type=int, help="CPU threads (PyTorch's choice)")
    parser.add_argument('--device', default='cpu', help='cpu, cuda or cuda:N (cpu)')
    parser.add_argument(
        '--out',
        default='work_dirs/benchmark',
        metavar='STEM',
        help='write STEM.json and STEM.png; those of an earlier run are replaced (work_dirs/benchmark)',
    )
    return parser


def run_benchmark(options: argparse.Namespace) -> None:
    """Measure networks, print tables, and write ``STEM.json`` and ``STEM.png``.

    Args:
        options: The options parsed by :func:`benchmark_parser`.

    Raises:
        UserError: An option or a network is invalid.
    """
    networks = list(dict.fromkeys([*options.networks, *([options.against] if options.against else [])]))
    sizes = [_parse_size(size) for size in options.size]
    _check_options(options, networks)
    if options.threads:
        torch.set_num_threads(options.threads)
    settings = [
        Setting(*values, options.batch, options.device)
        for values in itertools.product(options.mode, options.dtype, sizes)
    ]
    rounds = options.rounds if 'time' in options.measure else 0
    result = {
        'command': shlex.join(['python', 'tools/benchmark.py', *sys.argv[1:]]),
        'machine': describe_machine(options.device),
        'against': options.against,
        'records': measure(networks, settings, rounds, 'memory' in options.measure),
    }
    print(', '.join(f'{name} {value}' for name, value in result['machine'].items()))
    for record in result['records']:
        print(f'\n{Setting(**record["setting"])}\n\n{table(record["networks"], options.against)}')
    _write(result, *_output_files(options.out))


def _check_options(options: argparse.Namespace, networks: Sequence[str]) -> None:
    """Refuse values that cannot work before anything is measured."""
    for name in ('batch', 'rounds', 'threads'):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise UserError(f'--{name} {value}: must be at least 1')
    for network in networks:
        network_settings(network)
    check_device(options.device)
    for path in _output_files(options.out):
        check_folder('--out', path.parent)
    check_outputs('--out', _output_files(options.out))


def _parse_size(text: str) -> tuple[int, int]:
    """Height and width of ``800x1216``, or of ``512`` for a square."""
    match = re.fullmatch(r'(\d+)(?:x(\d+))?', text)
    height, width = (int(side or match[1]) for side in match.groups()) if match else (0, 0)
    if not (0 < height <= LONGEST_SIDE and 0 < width <= LONGEST_SIDE):
        raise UserError(f'--size {text}: give HEIGHTxWIDTH in pixels, such as 800x1216, up to {LONGEST_SIDE}')
    return height, width


def _output_files(stem: str) -> tuple[Path, Path]:
    return Path(f'{stem}.json'), Path(f'{stem}.png')


@dataclass(frozen=True)
class Setting:
    """The mode, dtype and input of a measurement.

    Attributes:
        mode: ``'inference'``, or ``'train'`` for a step of forward, backward and AdamW.
        dtype: ``'float32'``, or ``'bfloat16'`` for autocast.
        size: Height and width of each image in pixels.
        batch: Number of images.
        device: ``'cpu'`` or a CUDA device.
    """

    mode: str
    dtype: str
    size: Sequence[int]
    batch: int = 1
    device: str = 'cpu'

    def __str__(self) -> str:
        """For example ``inference, float32, 1×3×800×1216``."""
        return f'{self.mode_and_dtype}, {self.shape}'

    @property
    def mode_and_dtype(self) -> str:
        """For example ``training step, bfloat16``."""
        return f'{"training step" if self.mode == "train" else self.mode}, {self.dtype}'

    @property
    def shape(self) -> str:
        """For example ``1×3×800×1216``."""
        return '×'.join(map(str, (self.batch, IMAGE_CHANNELS, *self.size)))


def network_settings(network: str) -> dict[str, Any]:
    """Read the name of a network: ``s``, ``s+window+cp``, ``swin_t+compile``, ….

    Args:
        network: One of :data:`NETWORKS`, and after each ``+`` one of :data:`VARIANTS`.

    Returns:
        The arguments for building the network, without the variant ``compile``.

    Raises:
        UserError: The network or a variant is unknown, or the variants exclude each other.
    """
    name, *variants = network.split('+')
    for word, known, kind in [
        (name, NETWORKS, 'network'),
        *((word, VARIANTS, 'variant') for word in variants),
    ]:
        if word not in known:
            close = difflib.get_close_matches(word, known, n=1)
            hint = f'did you mean {close[0]}?' if close else f'choose one of {", ".join(known)}'
            raise UserError(f'{network}: unknown {kind} "{word}"; {hint}')
    groups, layouts = ([word for word in variants if word in choices] for choices in (GROUPS, LAYOUTS))
    if len(groups) > 1 or len(layouts) > 1:
        raise UserError(f'{network}: give at most one setting of groups and one layout')
    if name in SWINS and (groups or layouts):
        raise UserError(f'{network}: Swin has neither groups nor a layout; use them with {", ".join(ARCHS)}')
    settings = dict(SWINS.get(name, {'arch': name}), with_cp='cp' in variants)
    settings |= GROUPS[groups[0]] if groups else {}
    return settings | ({'long_distance': layouts[0]} if layouts else {})


def build(network: str) -> nn.Module:
    """Build a backbone with random weights; see :func:`network_settings` for its name and errors."""
    settings = network_settings(network)
    if 'arch' in settings:
        model = CrossFormer(**settings)
    else:
        with quiet_imports():
            from mmdet.models import SwinTransformer  # only Swin needs MMDetection
        model = SwinTransformer(**settings)
    if 'compile' in network.split('+'):
        model.compile(dynamic=False)
    return model


class Step:
    """A network with random images; each call runs one inference or one training step.

    The backward pass starts from fixed gradients of the network's maps.

    Args:
        network: Its name, see :func:`network_settings`.
        setting: Mode, dtype and input.
    """

    def __init__(self, network: str, setting: Setting) -> None:
        torch.manual_seed(0)
        self.model = build(network).to(setting.device)
        self.model.train(setting.mode == 'train')  # mmdet's Swin returns nothing from this
        self.images = torch.randn(setting.batch, IMAGE_CHANNELS, *setting.size, device=setting.device)
        self.optimizer = None
        if setting.mode == 'train':
            self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-4, fused=True)
        device = torch.device(setting.device).type
        self.autocast = torch.autocast(device, torch.bfloat16, enabled=setting.dtype == 'bfloat16')

    def __call__(self) -> None:
        """Run once."""
        with torch.set_grad_enabled(self.optimizer is not None), self.autocast:
            maps = self.model(self.images)
        if self.optimizer is not None:
            torch.autograd.backward(maps, [torch.ones_like(x) for x in maps])
            self.optimizer.step()
            self.optimizer.zero_grad()

    def count_multiply_adds(self) -> int:
        """Run once, uncompiled, and count the multiply-adds of matrix products and convolutions."""
        with torch.compiler.set_stance('force_eager'), flop_counter() as counter:
            self()
        return counter.get_total_flops() // 2


def measure(
    networks: Sequence[str], settings: Sequence[Setting], rounds: int, memory: bool
) -> list[dict[str, Any]]:
    """Measure networks in turn.

    Args:
        networks: Their names, see :func:`network_settings`.
        settings: Modes, dtypes and inputs.
        rounds: Timed steps of each network; 0 measures no time.
        memory: Whether to measure the peak of memory too.

    Returns:
        A record for each setting, as plain data: ``setting``, and under ``networks`` by name ``seconds`` (one
        value per round), ``multiply_adds`` and ``peak_bytes``, if they were measured.

    Raises:
        UserError: A name is invalid, or the memory of a network cannot be measured.
    """
    steps = len(networks) * ((1 + WARM_UP_STEPS + rounds if rounds else 0) + memory)
    records = []
    with progress_bar() as bar:
        advance = partial(bar.advance, bar.add_task('steps', total=len(settings) * steps))
        for setting in settings:
            found: dict[str, dict[str, Any]] = {network: {} for network in networks}
            if rounds:
                _add_times(found, setting, rounds, advance)
            if memory:
                for network in networks:
                    found[network]['peak_bytes'] = _peak_memory_of_network(network, setting)
                    advance()
            records.append({'setting': asdict(setting), 'networks': found})
    return records


def _add_times(
    found: dict[str, dict[str, Any]], setting: Setting, rounds: int, advance: Callable[[], None]
) -> None:
    torch.compiler.reset()  # compile for this size only, and reset the count of recompilations
    steps = {network: Step(network, setting) for network in found}
    for network, step in steps.items():
        found[network]['multiply_adds'] = step.count_multiply_adds()
        advance()
        for _ in range(WARM_UP_STEPS):
            step()
            advance()
    for network, seconds in time_in_turn(steps, rounds, advance).items():
        found[network]['seconds'] = seconds


def time_in_turn(
    steps: Mapping[str, Callable[[], None]],
    rounds: int,
    after_step: Callable[[], None] = lambda: None,
    clock: Callable[[], float] = timer,
) -> dict[str, list[float]]:
    """Time steps in turn: the first, the second, …, then the first again.

    A temporary slowdown of the machine then affects all of them, and the ratios within a round stay valid.

    Args:
        steps: The functions to time, by name. Warm them up first.
        rounds: How often to run each.
        after_step: Called after each step; not timed.
        clock: Returns the time in seconds. The default waits for the GPU first.

    Returns:
        The seconds of each step, one value per round.
    """
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(rounds):
        for name, step in steps.items():
            start = clock()
            step()
            times[name].append(clock() - start)
            after_step()
    return times


def _peak_memory_of_network(network: str, setting: Setting) -> int:
    """Call :func:`peak_memory` in a new process, since this one's allocator holds memory that is free."""
    question = json.dumps([torch.get_num_threads(), network, asdict(setting)])
    command = [sys.executable, '-m', __name__, question]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = (done.stderr.strip() or 'killed, perhaps because memory ran out').splitlines()[-1]
        raise UserError(f'memory of {network}: its process ended with {done.returncode}: {reason}')
    return int(done.stdout.splitlines()[-1])


def peak_memory(step: Callable[[], None], device: str = 'cpu') -> int:
    """Run a step twice and measure how much memory it takes.

    Args:
        step: The function to run.
        device: The device that it runs on.

    Returns:
        The peak of this process's resident memory (on a GPU, of its tensors) minus that at the start, in
        bytes.
    """
    on_cpu = torch.device(device).type == 'cpu'
    gc.collect()  # garbage that is freed during the steps would lower the measured peak
    if on_cpu:
        Path('/proc/self/clear_refs').write_text('5')  # resets only the peak of resident memory
        start = resident_bytes('VmRSS')
    else:
        torch.cuda.reset_peak_memory_stats(device)
        start = torch.cuda.memory_allocated(device)
    for _ in range(MEMORY_STEPS):
        step()
    return (resident_bytes('VmHWM') if on_cpu else torch.cuda.max_memory_allocated(device)) - start


def table(found: Mapping[str, dict[str, Any]], against: str | None = None) -> str:
    """Format the measurements of one setting as a Markdown table.

    Args:
        found: The measurements by network.
        against: The baseline of the ratios; None leaves them out.

    Returns:
        The lines of the table.
    """
    cells = {network: dict(_cells(values, found.get(against))) for network, values in found.items()}
    rows = [['network', *next(iter(cells.values()))]]
    rows += [[network, *row.values()] for network, row in cells.items()]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    rows.insert(1, ['-' * widths[0], *('-' * (width - 1) + ':' for width in widths[1:])])
    alignments = '<' + '>' * (len(widths) - 1)
    return '\n'.join(
        '| ' + ' | '.join(f'{cell:{a}{w}}' for cell, a, w in zip(row, alignments, widths, strict=True)) + ' |'
        for row in rows
    )


def _cells(values: dict[str, Any], baseline: dict[str, Any] | None) -> Iterator[tuple[str, str]]:
    """The column headings and cells of one network's row."""
    if 'seconds' in values:
        seconds = np.array(values['seconds'])
        lower, median, upper = np.percentile(seconds, [25, 50, 75])
        yield 'median s', f'{median:.3f}'
        yield 'fastest s', f'{seconds.min():.3f}'
        yield 'quartiles s', f'{lower:.3f}–{upper:.3f}'
        if baseline:
            yield 'ratio', f'{median / np.median(baseline["seconds"]):.2f}'
            yield 'ratio by round', f'{np.median(seconds / baseline["seconds"]):.2f}'
        yield 'G multiply-adds', f'{values["multiply_adds"] / 1e9:.1f}'
    if 'peak_bytes' in values:
        yield 'peak MB', f'{values["peak_bytes"] / 1e6:,.0f}'
        if baseline:
            yield 'ratio of memory', f'{values["peak_bytes"] / baseline["peak_bytes"]:.2f}'


def _write(result: dict[str, Any], data: Path, picture: Path) -> None:
    """Write a result as JSON and as a picture, and print the file names."""
    write_output(data, lambda part: mmengine.dump(result, part, 'json', indent=1))
    save_figure(draw(result['records']), picture, 100)
    print(f'\nwrote {data} and {picture}')


def draw(records: Sequence[dict[str, Any]]) -> Figure:
    """Draw time and memory, if they were measured.

    Args:
        records: From :func:`measure`.

    Returns:
        A panel for each quantity, mode and dtype, with a group of bars for each size.
    """
    panels: dict[str, list[dict[str, Any]]] = {}
    for record in records:
        panels.setdefault(Setting(**record['setting']).mode_and_dtype, []).append(record)
    measured = next(iter(records[0]['networks'].values()))
    quantities = [quantity for quantity in ('seconds', 'peak_bytes') if quantity in measured]
    sizes = len(records) / len(panels)
    width = max(4, 1.2 * sizes, 0.4 * sizes * len(records[0]['networks']))
    size = (width * len(panels) + 1.5, 3.5 * len(quantities))
    figure = Figure(figsize=size, layout='constrained')
    grid = figure.subplots(len(quantities), len(panels), squeeze=False)
    for row, quantity in zip(grid, quantities, strict=True):
        for axes, (title, group) in zip(row, panels.items(), strict=True):
            _draw_bars(axes, group, quantity)
            axes.set_title(title, fontsize=9)
    figure.legend(*grid[0][0].get_legend_handles_labels(), loc='outside right upper', fontsize=8)
    return figure


def _draw_bars(axes: Axes, records: Sequence[dict[str, Any]], quantity: str) -> None:
    """Medians of the seconds with their quartiles, or peaks of memory."""
    networks = list(records[0]['networks'])
    width = 0.8 / len(networks)
    colours = colormaps['tab10' if len(networks) <= 10 else 'tab20']
    for i, network in enumerate(networks):
        values = [record['networks'][network][quantity] for record in records]
        positions = np.arange(len(records)) + (i - (len(networks) - 1) / 2) * width
        if quantity == 'seconds':
            lower, heights, upper = np.transpose([np.percentile(value, [25, 50, 75]) for value in values])
            errors = np.array([heights - lower, upper - heights])
        else:
            heights, errors = np.divide(values, 1e6), None
        axes.bar(positions, heights, 0.9 * width, color=colours(i), yerr=errors, capsize=3, label=network)
    shapes = [Setting(**record['setting']).shape for record in records]
    axes.set_xticks(range(len(records)), shapes, fontsize=8)
    axes.set_ylabel('seconds' if quantity == 'seconds' else 'peak memory, MB')
    axes.grid(axis='y', alpha=0.3)
    axes.set_axisbelow(True)


if __name__ == '__main__':  # the process that _peak_memory_of_network starts
    threads, _network, _setting = json.loads(sys.argv[1])
    torch.set_num_threads(threads)
    print(peak_memory(Step(_network, Setting(**_setting)), _setting['device']))
