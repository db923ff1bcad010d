"""``docs/performance.md``: measured anew, section by section, and written from what was measured."""

import json
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import ascii_uppercase
from typing import Any

from ...utils.errors import UserError
from . import launches
from .run import STUDIES, words_of

SWIN_DETECTOR = 'mmdet::swin/mask-rcnn_swin-t-p4-w7_fpn_1x_coco.py'
DETECTOR = 'configs/mask_rcnn_crossformer_s.py'
BACKBONES = ('s', '--against', 'swin_t')
LAYOUTS = ('s+map', 's+window')
DETECTORS = (DETECTOR, SWIN_DETECTOR, *BACKBONES)
INFERENCE, TRAINING = ('--size', '800x1216'), ('--mode', 'train', '--size', '512x640', '--batch', '2')
BOTH_DTYPES = ('--dtype', 'float32', 'bfloat16')
TIME, MEMORY = ('--measure', 'time'), ('--measure', 'memory')
FOUR_TURNS = ('--rounds', '4')


@dataclass(frozen=True)
class Section:
    """A part of the page.

    Attributes:
        title: Its heading.
        words: What the tool is given for it.
        text: What a reader needs to know to read it.
    """

    title: str
    words: Sequence[str]
    text: str = ''


SECTIONS = {
    'inference': Section(
        'Inference', (*LAYOUTS, *BACKBONES[1:], *BOTH_DTYPES, *INFERENCE, *TIME, '--rounds', '9')
    ),
    'training': Section(
        'Training step', (*LAYOUTS, *BACKBONES[1:], *BOTH_DTYPES, *TRAINING, *TIME, '--rounds', '7')
    ),
    'memory': Section(
        'Memory of training',
        (*LAYOUTS, 's+map+cp', 's+window+cp', '--against', 'swin_t', *TRAINING, *MEMORY),
        'The peak of two steps above what the process had before them: activations, gradients and the'
        ' state of AdamW, which take 12 bytes a parameter whatever else is done. `+cp` is activation'
        ' checkpointing, `with_cp=True`.',
    ),
    'checkpointing': Section(
        'Time of activation checkpointing',
        ('s+cp', '--against', 's', *TRAINING, *TIME),
        'What that costs in time; the multiply-adds include what is computed again.',
    ),
    'compiled': Section(
        'Inference after `torch.compile`',
        (*BACKBONES, *INFERENCE, '--compile', *TIME, '--rounds', '9'),
    ),
    'sizes_of_network': Section(
        'All sizes of the network',
        (
            *('t', 's', 'b', 'l', 'pp_s', 'pp_b', 'pp_l', 'pp_h', 'swin_t', 'swin_s', 'swin_b'),
            *('--size', '512x640', '--rounds', '7', *TIME),
        ),
    ),
    'large_groups': Section(
        'The large setting of groups',
        ('s+large', 's', '--size', '800x1344', *TIME, '--against', 'swin_t'),
        'Groups of 14 14 7 7 with intervals 16 8 2 1. Maps of this size would be padded to 1.49 times their'
        ' tokens; real tokens alone are computed.',
    ),
    'growth': Section(
        'Growth with size',
        (
            *('s', '--groups', 'standard', 'large', '--size', '512', '724', '1024', '1448', '2048'),
            *('--rounds', '5', *TIME),
        ),
    ),
    'image_sizes': Section(
        'Images of many sizes',
        ('s', '--study', 'sizes', '--size', '512x640', '--rounds', '5'),
        'Twenty images in a row, each of its own size, with sides from 0.7 to 1.3 times those given, new'
        ' ones in every round; against images of one size, in turn.',
    ),
    'operators_inference': Section(
        'Where the time of inference goes',
        ('s', 'swin_t', '--study', 'operators', *BOTH_DTYPES, *INFERENCE),
        "By PyTorch's profiler. Attention is its products and softmax; what it copies counts as copies.",
    ),
    'operators_training': Section(
        'Where the time of a training step goes',
        ('s', 'swin_t', '--study', 'operators', *BOTH_DTYPES, *TRAINING),
    ),
    'detectors_inference': Section(
        'Mask R-CNN, inference',
        (*DETECTORS, *INFERENCE, *TIME, *FOUR_TURNS),
        'Whole detectors from the preprocessing of an image in memory to masks of its size, beside their'
        ' backbones alone: the ratio of the two tells how much of it is backbone. Untrained heads find'
        ' nothing; here one class is favoured, so that boxes are sorted and 100 masks drawn, and the'
        ' proposals are anchors, the same in both.',
    ),
    'detectors_training': Section(
        'Mask R-CNN, training step',
        (*DETECTORS, '--mode', 'train', *INFERENCE, *TIME, *FOUR_TURNS),
        'With losses, backward and optimizer, on one random image with 7 objects; the proposals are anchors,'
        ' the same in both.',
    ),
    'pipeline': Section(
        'Input pipeline',
        (DETECTOR, '--study', 'pipeline'),
        "500 generated JPEGs of 640×480 through the config's training pipeline (short side 800). A GPU is"
        ' kept busy where this is more than it trains on. The last columns are of a training whose steps'
        ' take a quarter longer than loading does: an even pace, a ratio near 1, means that nothing stalls'
        ' every so many steps as there are workers. What the median step takes above its pace is, without'
        ' workers, the loading; with them, that the training process receives a batch: the masks of its'
        " objects, each of an image's size, come through a pipe, some 9 MB a batch of two here.",
    ),
}

HEAD = """# Speed and memory

Written by `python tools/performance_page.py` from what `tools/benchmark.py` measured; `--help` of both says
more. The figures are of the machine that each section names: **ratios last, seconds do not.**

- Networks take turns, one step each, in one process: what slows the machine for a while hits all of them.
  *Ratio* is of the medians, ours over the network named after `--against`; *by round* is the median of the
  ratios within each round.
- A training step is forward, backward and AdamW. bfloat16 is autocast. `swin_t` is MMDetection's
  `SwinTransformer` as published, which has nearly the multiply-adds of `s`.
- *Of matrix speed* is the rate of multiply-adds over that of a plain matrix product of the same dtype in the
  same rounds: the headroom if the network were matrix products only.
- Peaks of memory are each of a process of its own.
- `s+map` and `s+window` are the two layouts of long distance attention. **Sections dated before 2026-11-26
  measured layout `window`**, the only one then, under the name `s`, on older code.
- **GPUs: not measured.** `--device cuda` waits for the GPU before each reading of the clock and reports
  CUDA's own peak of memory; it has never run. [What a block launches](#what-a-block-launches-on-a-gpu) is
  counted.
"""

LAUNCHES = """## What a block launches on a GPU

The mean over the 12 blocks of CrossFormer-S and of Swin-T, for one image of 800×1344 in float32, after the
first call at that size. Operators that only make views are left out; attention is PyTorch's memory-efficient
kernel in CrossFormer, and products and a softmax in MMDetection's Swin. The position bias is computed at each
call, in evaluation too: a cache of it would not notice weights that are written through `.data`."""


def measure(names: Sequence[str], folder: Path, tool: Path) -> None:
    """Measure sections, each in a process of its own.

    Args:
        names: Some of :data:`SECTIONS`.
        folder: Where ``NAME.json`` and ``NAME.png`` go.
        tool: ``tools/benchmark.py``.

    Raises:
        UserError: There is no such section, or a measurement failed.
    """
    unknown = [name for name in names if name not in SECTIONS]
    if unknown:
        raise UserError(f'{unknown[0]}: no such section; there are {", ".join(SECTIONS)}')
    for name in names:
        print(f'{name}:', flush=True)
        words = [sys.executable, tool, *SECTIONS[name].words, '--out', folder / name]
        if subprocess.run(words, cwd=tool.parents[1], check=False).returncode:
            raise UserError(f'{name}: measuring it failed; the lines above say why')


def page(folder: Path, link: str) -> str:
    """Write the page anew from the sections that have been measured.

    Args:
        folder: Where their ``NAME.json`` are.
        link: That folder, seen from the page.

    Returns:
        The page's text.

    Raises:
        UserError: None has been measured.
    """
    read = {name: _read(folder / f'{name}.json') for name in SECTIONS}
    results = {name: result for name, result in read.items() if result}
    if not results:
        raise UserError(f'{folder}: nothing measured there; name sections to measure, or --all')
    names = _names_of_machines(results.values())
    machines = [f'- **{name}**: {facts}.' for facts, name in names.items()]
    parts = [_section(name, result, names[_facts(result)], link) for name, result in results.items()]
    return '\n'.join([HEAD, *machines, '', *parts, LAUNCHES, '', launches.table(), ''])


def _read(path: Path) -> dict[str, Any] | None:
    return json.loads(path.read_text(encoding='utf-8')) if path.is_file() else None


def _section(name: str, result: dict[str, Any], machine: str, link: str) -> str:
    section = SECTIONS[name]
    table = STUDIES[result['study']].table(result['records'], result['against'])
    origin = f'{result["machine"]["date"]}, {machine}: `{result["command"]}`'
    lines = [f'## {section.title}', '', origin, '']
    if section.text:
        lines += [section.text, '']
    return '\n'.join([*lines, table, '', f'![{section.title}]({link}/{name}.png)', ''])


def _facts(result: dict[str, Any]) -> str:
    """The machine and stack that figures come from."""
    machine = {key: value for key, value in result['machine'].items() if key != 'date'}
    return '; '.join(f'{name} {value}' for name, value in words_of(machine))


def _names_of_machines(results: Iterable[dict[str, Any]]) -> dict[str, str]:
    """A short name for each machine and stack, in the order of the page."""
    facts = dict.fromkeys(map(_facts, results))
    return {fact: f'machine {letter}' for fact, letter in zip(facts, ascii_uppercase, strict=False)}
