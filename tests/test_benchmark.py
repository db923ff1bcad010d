"""The benchmark: what is made of given times, a known allocation seen, and each study on tiny networks."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import CONFIGS
from mmengine.config import Config
from mmengine.hub import get_config
from torch import nn

from crossformer_mm import CrossFormer
from crossformer_mm.engine import cli
from crossformer_mm.engine.benchmark import page, run, subjects, workload
from crossformer_mm.engine.benchmark.compare import Setting, compare
from crossformer_mm.engine.benchmark.memory import peak_above_start, peak_of_case
from crossformer_mm.engine.benchmark.operators import OTHER, kind_of, measure_operators
from crossformer_mm.engine.benchmark.pipeline import stall_ratio, step_times
from crossformer_mm.engine.benchmark.report import comparison, growth, layout, matrix_share
from crossformer_mm.engine.benchmark.sizes import IMAGES, draw_sizes, measure_sizes
from crossformer_mm.engine.benchmark.subjects import SWINS, Subject, build, parse_subject
from crossformer_mm.engine.benchmark.timing import (
    growth_exponent,
    median_ratio,
    ratio_of_medians,
    spread,
    time_rounds,
)
from crossformer_mm.engine.benchmark.workload import Case, Workload
from crossformer_mm.utils.errors import UserError

TINY = {'embed_dims': 32, 'depths': (1, 1, 2, 1), 'num_heads': (1, 2, 4, 8)}
S, SWIN = Subject('s'), Subject('swin_t')


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """Networks of seconds: every arch narrow, Swin too, and small products."""
    from crossformer_mm.engine.benchmark import machine

    small = lambda name, **kwargs: CrossFormer(TINY, **kwargs)  # noqa: E731
    monkeypatch.setattr(subjects, 'CrossFormer', small)
    for sizes in SWINS.values():
        monkeypatch.setitem(sizes, 'embed_dims', 32)
        monkeypatch.setitem(sizes, 'depths', (1, 1, 2, 1))
        monkeypatch.setitem(sizes, 'num_heads', (1, 2, 4, 8))
    monkeypatch.setitem(machine.PRODUCT_SIDE, 'cpu', 64)


def record(**seconds: list[float]) -> dict[str, Any]:
    """A comparison's record with given times, as many multiply-adds as the product that took a second."""
    return {
        'setting': {'mode': 'inference', 'dtype': 'float32', 'height': 64, 'width': 96, 'batch': 2},
        'subjects': {
            label: {'seconds': times, 'multiply_adds': 10**9, 'peak_bytes': int(1e6 * times[0])}
            for label, times in seconds.items()
        },
        'product': {'seconds': [1.0, 1.0, 1.0], 'multiply_adds': 10**9},
    }


def test_steps_take_turns_and_get_their_own_times() -> None:
    now, order = [0.0], []

    def step(name: str, seconds: float) -> Callable[[], None]:
        def advance() -> None:
            order.append(name)
            now[0] += seconds

        return advance

    def after() -> None:
        now[0] += 100  # not part of any step's time

    times = time_rounds({'a': step('a', 1), 'b': step('b', 3)}, 3, after_step=after, clock=lambda: now[0])
    assert order == ['a', 'b'] * 3
    assert times == {'a': [1, 1, 1], 'b': [3, 3, 3]}


def test_spread_and_ratios_of_given_times() -> None:
    seen = spread([4.0, 1.0, 2.0, 3.0, 100.0])
    assert (seen.median, seen.lowest, seen.lower_quartile, seen.upper_quartile) == (3, 1, 2, 4)
    ours, theirs = [1.0, 2.0, 30.0], [2.0, 5.0, 40.0]
    assert ratio_of_medians(ours, theirs) == pytest.approx(2 / 5)
    assert median_ratio(ours, theirs) == pytest.approx(1 / 2)


@pytest.mark.parametrize('exponent', [1.0, 1.3])
def test_exponent_of_synthetic_times(exponent: float) -> None:
    pixels = [side**2 for side in (512, 1024, 2048)]
    assert growth_exponent(pixels, [3e-6 * n**exponent for n in pixels]) == pytest.approx(exponent)


def test_growth_takes_three_sizes() -> None:
    records = []
    for side in (64, 128, 256):
        records.append(record(s=[side**2 * 1e-6] * 3))
        records[-1]['setting'].update(height=side, width=side)
    assert growth(records[:2]) == {}
    ((pixels, seconds),) = growth(records).values()
    assert growth_exponent(pixels, seconds) == pytest.approx(1)


def test_tables_have_the_ratios() -> None:
    text = comparison([record(s=[2.0, 2.0, 8.0], swin_t=[4.0, 5.0, 4.0])], 'swin_t')
    times, memory = text.split('\n\n')
    ours = [cell.strip() for cell in times.splitlines()[3].split('|')[1:-1]]
    assert ours == ['s', '2.000', '2.000', '2.000–5.000', '0.50', '0.50', '1.0', '50%']
    assert [cell.strip() for cell in memory.splitlines()[3].split('|')[1:-1]] == ['s', '2', '0.50']
    assert len({len(line) for line in times.splitlines()}) == 1


def test_no_ratios_without_a_network_to_measure_by() -> None:
    text = comparison([record(s=[2.0, 2.0, 2.0])], None)
    assert text.splitlines()[3].count('|  ') >= 2


def test_share_of_matrix_speed() -> None:
    found = {'seconds': [2.0, 2.0], 'multiply_adds': 3 * 10**9}
    product = {'seconds': [0.5, 0.5], 'multiply_adds': 10**9}
    assert matrix_share(found, product) == pytest.approx(0.75)


def test_layout_is_markdown() -> None:
    rows = [['network', 'ratio'], ['s', '0.81']]
    assert layout(rows).splitlines() == ['| network | ratio |', '| ------- | ----: |', '| s       |  0.81 |']


def test_a_known_allocation_is_seen() -> None:
    size = 64 * 2**20

    def step() -> None:
        torch.ones(size, dtype=torch.uint8)

    assert 0.95 * size < peak_above_start(step) < 1.5 * size


def test_memory_of_a_case_in_its_own_process() -> None:
    case = Case(Subject('t'), 'inference', 'float32', 64, 64)
    assert 0 < peak_of_case(case, threads=1) < 500e6


def test_a_failing_process_is_told_in_one_line() -> None:
    case = Case(Subject('no_such.py'), 'inference', 'float32', 64, 64)
    with pytest.raises(UserError, match=r'memory of no_such: .* ended with 1: .*no such config') as told:
        peak_of_case(case)
    assert '\n' not in str(told.value)


def test_cases_survive_json() -> None:
    case = Case(Subject('s', 'large', True, True, 'window'), 'train', 'bfloat16', 64, 96, 2)
    assert Case.from_dict(json.loads(json.dumps(case.to_dict()))) == case


def test_subjects_are_parsed() -> None:
    assert parse_subject('s+large+cp') == Subject('s', 'large', with_cp=True)
    assert parse_subject('s+window') == Subject('s', layout='window')
    assert parse_subject('swin_t+compile') == Subject('swin_t', compiled=True)
    assert parse_subject('s+cp+window+large').label == 's+large+window+cp'
    assert parse_subject('configs/mask_rcnn_crossformer_s.py').label == 'mask_rcnn_crossformer_s'


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('sx', 'nothing is called "sx"; choose of t, s, .*swin_b, or name a config file'),
        (
            's+big',
            'no variant is called "big"; there are standard, large, progressive, map, window, cp, compile',
        ),
        ('swin_t+large', 'only a CrossFormer has a setting of groups'),
        ('s+large+standard', 'just one'),
        ('s+map+window', 'just one'),
        ('swin_t+window', 'only a CrossFormer'),
    ],
)
def test_subjects_that_do_not_exist(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse_subject(text)


def test_swin_is_as_in_mmdets_config() -> None:
    backbone = get_config('mmdet::swin/mask-rcnn_swin-t-p4-w7_fpn_1x_coco.py').model.backbone
    assert {key: backbone[key] for key in SWINS['swin_t']} == {
        key: list(value) if isinstance(value, tuple) else value for key, value in SWINS['swin_t'].items()
    }


def test_variants_reach_the_network() -> None:
    block = build(Subject('t', 'large', with_cp=True, layout='window')).layers[0].blocks[0]
    assert (block.with_cp, block.attn.groups.group_size, block.attn.groups.layout) == (True, 14, 'window')
    assert build(Subject('t')).layers[0].blocks[0].attn.groups.layout == 'map'


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
@pytest.mark.usefixtures('tiny')
def test_a_training_step_moves_every_weight(dtype: str) -> None:
    """Not every bias: one that all logits of a head share changes no attention weight."""
    step = Workload(Case(S, 'train', dtype, 64, 96))
    before = {name: value.clone() for name, value in step.model.named_parameters() if value.dim() > 1}
    step()
    after = dict(step.model.named_parameters())
    assert [name for name, value in before.items() if torch.equal(value, after[name])] == []
    assert all(parameter.grad is None for parameter in step.model.parameters())


@pytest.mark.usefixtures('tiny')
def test_training_counts_more_than_inference() -> None:
    inference, train = (Workload(Case(S, mode, 'float32', 64, 64)).count() for mode in workload.MODES)
    assert 2.5 * inference < train < 3.5 * inference


@pytest.mark.usefixtures('tiny')
def test_compare_records_every_setting() -> None:
    settings = [Setting(mode, 'float32', 64, 64) for mode in workload.MODES]
    records = compare([S, SWIN], settings, rounds=2, memory=False)
    assert [record['setting']['mode'] for record in records] == list(workload.MODES)
    for found in records:
        assert list(found['subjects']) == ['s', 'swin_t']
        assert all(len(times['seconds']) == 2 for times in found['subjects'].values())
        assert len(found['product']['seconds']) == 2


@pytest.mark.usefixtures('tiny')
def test_sizes_are_new_in_every_round() -> None:
    setting = Setting('inference', 'float32', 64, 64)
    first, second = (draw_sizes(setting, round_) for round_ in (1, 2))
    assert len(set(first)) > IMAGES / 2
    assert first != second
    (found,) = measure_sizes([S], [setting], rounds=2)
    assert [len(found['subjects']['s'][name]) for name in ('many', 'one')] == [2, 2]


def test_sizes_are_not_for_whole_models() -> None:
    with pytest.raises(UserError, match='mine: sizes are compared for backbones'):
        measure_sizes([Subject('mine.py')], [], 1)


@pytest.mark.parametrize(
    ('operator', 'kind'),
    [
        ('aten::addmm', 'linear layers'),
        ('aten::mkldnn_convolution', 'convolution'),
        ('aten::_scaled_dot_product_flash_attention_for_cpu', 'attention'),
        ('crossformer_mm::add_attention_backward', 'attention'),
        ('crossformer_mm::add_mlp', 'linear layers'),
        ('aten::native_layer_norm_backward', 'norms'),
        ('aten::gelu_backward', 'GELU'),
        ('aten::copy_', 'copies'),
        ('aten::fill_', 'fills'),
        ('aten::_fused_adamw_', 'optimizer'),
        ('aten::add_', 'elementwise'),
        ('aten::nonesuch', OTHER),
    ],
)
def test_kinds_of_operators(operator: str, kind: str) -> None:
    assert kind_of(operator) == kind


@pytest.mark.usefixtures('tiny')
def test_profile_finds_the_linear_layers() -> None:
    (found,) = measure_operators([S], [Setting('train', 'float32', 64, 64)])
    assert found['subjects']['s'].keys() >= {'linear layers', 'attention', 'convolution', 'optimizer'}


def test_paced_steps_show_stalls() -> None:
    def batches(stall: float) -> Any:
        for i in range(12):
            if i % 3 == 2:
                time.sleep(stall)
            yield i

    assert stall_ratio(step_times(batches(0), 0.03)) < 1.5
    assert stall_ratio(step_times(batches(0.12), 0.03)) > 3


@pytest.mark.parametrize('mode', workload.MODES)
def test_whole_models(mode: str, narrow_config: Callable[[str], Config], tmp_path: Path) -> None:
    path = tmp_path / 'narrow.py'
    narrow_config('mask_rcnn_crossformer_s').dump(path)
    step = Workload(Case(Subject(str(path)), mode, 'bfloat16', 64, 96, 2))
    drawn: list[int] = []
    step.model.roi_head.mask_head.register_forward_hook(lambda _m, _i, out: drawn.append(len(out)))
    step()
    assert sum(drawn) > 0
    weights = [module.weight for module in step.model.modules() if isinstance(module, nn.Linear)]
    assert all(weight.isfinite().all() for weight in weights)


@pytest.mark.usefixtures('tiny')
def test_tool_prints_writes_and_draws(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ['s', '--against', 'swin_t', '--size', '64', '--rounds', '2', '--measure', 'time']
    assert cli.run(run.benchmark_parser(), run.benchmark, [*words, '--out', str(tmp_path / 'new' / 'b')]) == 0
    assert '*inference, float32, 1×3×64×64*' in capsys.readouterr().out
    written = json.loads((tmp_path / 'new' / 'b.json').read_text())
    assert written['against'] == 'swin_t'
    assert written['machine']['versions']['torch'] == torch.__version__
    assert (tmp_path / 'new' / 'b.png').read_bytes().startswith(b'\x89PNG')


@pytest.mark.parametrize('study', ['operators', 'sizes'])
@pytest.mark.usefixtures('tiny')
def test_tool_runs_the_other_studies(study: str, tmp_path: Path) -> None:
    words = ['s', 'swin_t', '--study', study, '--size', '64', '--rounds', '1', '--out', str(tmp_path / 'b')]
    assert cli.run(run.benchmark_parser(), run.benchmark, words) == 0
    assert (tmp_path / 'b.png').is_file()


def test_tool_measures_the_input_pipeline(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = str(CONFIGS / 'mask_rcnn_crossformer_s.py')
    words = [config, '--study', 'pipeline', '--images', '8', '--workers', '0', '1']
    assert cli.run(run.benchmark_parser(), run.benchmark, [*words, '--out', str(tmp_path / 'b')]) == 0
    workers = json.loads((tmp_path / 'b.json').read_text())['records'][0]['workers']
    assert list(workers) == ['0', '1']
    assert all(found['images_per_second'] > 0 and len(found['seconds']) > 1 for found in workers.values())
    assert (tmp_path / 'b.png').is_file()


@pytest.mark.parametrize(
    ('words', 'message'),
    [
        (['s', '--size', '12y'], '--size 12y: give HEIGHTxWIDTH'),
        (['s', '--size', '0x64'], '--size 0x64: give HEIGHTxWIDTH'),
        (['s', '--threads', '0'], '--threads 0: must be at least 1'),
        (['s', '--workers', '-1'], '--workers -1: must be at least 0'),
        (['s', '--device', 'abacus'], '--device abacus: give cpu, cuda or cuda:N'),
        (['none.py'], 'none.py: no such config file'),
        (['mmdet::none.py'], 'mmdet::none.py: no such config in an installed toolbox'),
        (['s', '--study', 'pipeline'], 's: no such config file'),
    ],
)
def test_tool_refuses_in_one_line(
    words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(run.benchmark_parser(), run.benchmark, [*words, '--out', str(tmp_path / 'b')]) == 1
    assert message in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.skipif(torch.cuda.is_available(), reason='there is a GPU')
def test_no_gpu(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(run.benchmark_parser(), run.benchmark, ['s', '--device', 'cuda']) == 1
    assert '--device cuda: PyTorch sees no GPU here' in capsys.readouterr().err


def test_groups_apply_to_crossformers_alone() -> None:
    options = run.benchmark_parser().parse_args(
        ['s', '--against', 'swin_t', '--groups', 'standard', 'large', '--with-cp']
    )
    labels = [subject.label for subject in run.find_subjects(options)]
    assert labels == ['s+standard+cp', 's+large+cp', 'swin_t+cp']


def test_page_has_what_was_measured(tmp_path: Path) -> None:
    with pytest.raises(UserError, match='nothing measured there'):
        page.page(tmp_path, 'performance')
    result = {
        'command': 'python tools/benchmark.py s',
        'study': 'compare',
        'machine': {'cpu': 'Abacus', 'cores': 2, 'features': ['beads'], 'date': '2026-01-02'},
        'against': 'swin_t',
        'records': [record(s=[1.0, 1.0], swin_t=[2.0, 2.0])],
    }
    (tmp_path / 'inference.json').write_text(json.dumps(result))
    other = {**result, 'machine': {**result['machine'], 'cores': 4, 'date': '2026-01-03'}}
    (tmp_path / 'compiled.json').write_text(json.dumps(other))
    text = page.page(tmp_path, 'performance')
    assert '- **machine A**: cpu Abacus; cores 2; features beads.' in text
    assert '- **machine B**: cpu Abacus; cores 4; features beads.' in text
    assert '![Inference](performance/inference.png)' in text
    assert '2026-01-02, machine A: `python tools/benchmark.py s`' in text
    assert '2026-01-03, machine B: `python tools/benchmark.py s`' in text
    assert '## Memory' not in text


def test_sections_are_commands_that_parse() -> None:
    for section in page.SECTIONS.values():
        options = run.benchmark_parser().parse_args(section.words)
        run.check_options(options)
        if options.study != 'pipeline':
            assert run.find_subjects(options)
            assert run.find_settings(options)


def test_unknown_sections_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match='nope: no such section; there are inference, '):
        page.measure(['nope'], tmp_path, tmp_path)
