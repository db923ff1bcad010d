"""The benchmark: the tool on small images, and the statistics of given times."""

import json
from collections.abc import Callable
from pathlib import Path

import cv2
import pytest
import torch
from mmengine.hub import get_config

from crossformer_mm.engine import cli
from crossformer_mm.engine.benchmark import (
    SWINS,
    Setting,
    benchmark_parser,
    build,
    draw,
    measure,
    peak_memory,
    run_benchmark,
    table,
    time_in_turn,
)
from crossformer_mm.utils.errors import UserError


def run(line: str, out: Path) -> int:
    return cli.run(benchmark_parser(), run_benchmark, [*line.split(), '--out', str(out)])


def row(text: str, network: str) -> list[str]:
    """The cells of a network's row in the first table of ``text``."""
    line = next(line for line in text.splitlines() if line.startswith(f'| {network} '))
    return [cell.strip() for cell in line.strip('|').split('|')]


@pytest.mark.slow
def test_tool_measures_prints_writes_and_draws(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = 't+window+large+cp --against swin_t --mode inference train --dtype float32 bfloat16 --size 64x32'
    stem = tmp_path / 'new' / 'v1.2'
    assert run(f'{line} --rounds 3 --measure time', stem) == 0
    printed = capsys.readouterr().out
    result = json.loads((tmp_path / 'new' / 'v1.2.json').read_text())
    assert result['against'] == 'swin_t'
    assert result['machine']['versions']['torch'] == torch.__version__
    assert result['machine']['threads'] == torch.get_num_threads()
    settings = [Setting(**record['setting']) for record in result['records']]
    modes = ('inference', 'training step')
    assert [*map(str, settings)] == [f'{m}, {d}, 1×3×64×32' for m in modes for d in ('float32', 'bfloat16')]
    for record, setting in zip(result['records'], settings, strict=True):
        assert str(setting) in printed
        assert list(record['networks']) == ['t+window+large+cp', 'swin_t']
        for values in record['networks'].values():
            assert len(values['seconds']) == 3
            assert 0 < min(values['seconds']) <= max(values['seconds']) < 600
    _, median, fastest, quartiles, *_ = row(printed, 't+window+large+cp')
    lower, upper = quartiles.split('–')
    assert 0 < float(fastest) <= float(lower) <= float(median) <= float(upper)
    inference, *_, training = (record['networks']['swin_t']['multiply_adds'] for record in result['records'])
    assert 2.5 * inference < training < 3.5 * inference
    picture = cv2.imread(str(tmp_path / 'new' / 'v1.2.png'))
    assert picture.std() > 10, 'the picture is empty'


@pytest.mark.slow
def test_tool_measures_memory_in_processes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run('t --size 64 --measure memory --threads 1', tmp_path / 'b') == 0
    (record,) = json.loads((tmp_path / 'b.json').read_text())['records']
    peak = record['networks']['t']['peak_bytes']
    assert 1e6 < peak < 500e6
    assert row(capsys.readouterr().out, 't') == ['t', f'{peak / 1e6:,.0f}']


@pytest.mark.slow
def test_a_failed_process_is_one_line() -> None:
    with pytest.raises(
        UserError, match=r'memory of x: its process ended with 1: .*unknown network'
    ) as refused:
        measure(['x'], [Setting('inference', 'float32', (64, 64))], 0, memory=True)
    assert '\n' not in str(refused.value)


def test_a_known_allocation_is_measured() -> None:
    size = 64 * 2**20
    assert 0.95 * size < peak_memory(lambda: torch.ones(size, dtype=torch.uint8)) < 1.5 * size


def test_steps_take_turns_and_get_their_own_times() -> None:
    now, order = [0.0], []

    def step(name: str, seconds: float) -> Callable[[], None]:
        def advance() -> None:
            order.append(name)
            now[0] += seconds

        return advance

    def after() -> None:
        now[0] += 100  # not part of any step's time

    times = time_in_turn({'a': step('a', 1), 'b': step('b', 3)}, 3, after, clock=lambda: now[0])
    assert order == ['a', 'b'] * 3
    assert times == {'a': [1, 1, 1], 'b': [3, 3, 3]}


def test_table_has_medians_quartiles_and_ratios() -> None:
    ours = {'seconds': [4.0, 1.0, 2.0, 3.0, 100.0], 'multiply_adds': 2 * 10**9, 'peak_bytes': 3 * 10**9}
    theirs = {'seconds': [4.0, 4.0, 4.0, 6.0, 4.0], 'multiply_adds': 10**9, 'peak_bytes': 2 * 10**9}
    text = table({'s': ours, 'swin_t': theirs}, 'swin_t')
    assert row(text, 's') == ['s', '3.000', '1.000', '2.000–4.000', '0.75', '0.50', '2.0', '3,000', '1.50']
    assert len({len(line) for line in text.splitlines()}) == 1
    assert row(table({'s': ours}), 's') == ['s', '3.000', '1.000', '2.000–4.000', '2.0', '3,000']


def test_bars_are_medians() -> None:
    def record(side: int) -> dict:
        setting = {'mode': 'train', 'dtype': 'float32', 'size': [side, side], 'batch': 2}
        return {
            'setting': setting,
            'networks': {'t': {'seconds': [side, 1, 5 * side]}, 's': {'seconds': [2]}},
        }

    (axes,) = draw([record(64), record(128)]).axes
    assert axes.get_title() == 'training step, float32'
    assert [label.get_text() for label in axes.get_xticklabels()] == ['2×3×64×64', '2×3×128×128']
    assert [[bar.get_height() for bar in bars] for bars in axes.containers if len(bars) == 2] == [
        [64, 128],
        [2, 2],
    ]


@pytest.mark.parametrize(
    ('network', 'message'),
    [
        ('swin_tt', 'unknown network "swin_tt"; did you mean swin_t?'),
        ('zzz', 'choose one of t, s, b, l, pp_s'),
        ('s+windows', 'unknown variant "windows"; did you mean window?'),
    ],
)
def test_unknown_names_get_a_suggestion(
    network: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(network, tmp_path / 'b') == 1
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_variants_reach_the_network() -> None:
    stages = build('t+large+window').layers
    rules = [stage.blocks[0].attn.groups for stage in stages]
    assert [(rule.group_size, rule.interval, rule.layout) for rule in rules] == [
        (14, 16, 'window'),
        (14, 8, 'window'),
        (7, 2, 'window'),
        (7, 1, 'window'),
    ]


def test_swin_is_as_in_mmdets_config() -> None:
    backbone = get_config('mmdet::swin/mask-rcnn_swin-t-p4-w7_fpn_1x_coco.py').model.backbone
    found = {key: backbone[key] for key in SWINS['swin_t']}
    assert json.loads(json.dumps(found)) == json.loads(json.dumps(SWINS['swin_t']))


@pytest.mark.slow
def test_compiled_networks_run_at_several_sizes(tmp_path: Path) -> None:
    line = 't+window+compile --size 32 64x96'
    assert run(f'{line} --rounds 1 --measure time', tmp_path / 'b') == 0
