"""README.md and docs/: their examples, command lines and links work, and the tests that they name exist."""

import argparse
import ast
import functools
import io
import re
import runpy
import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from fnmatch import fnmatch
from pathlib import Path
from typing import Any
from unittest.mock import patch

import cv2
import mmseg
import numpy as np
import pytest
import torch
from mmdet.structures import DetDataSample
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from mmseg.structures import SegDataSample
from torch import nn

from crossformer_mm import CrossFormer
from crossformer_mm.data.datasets import set_num_classes

ROOT = Path(__file__).parents[2]
README = ROOT / 'README.md'
PAGES = [README, *sorted((ROOT / 'docs').glob('*.md'))]
TEXTS = {page: page.read_text(encoding='utf-8') for page in PAGES}
PYTHON = re.compile(r'^```python\n(.*?)^```', re.DOTALL | re.MULTILINE)
# Variables, launchers and their options; then a tool; then its arguments.
COMMAND = re.compile(
    r'(?:\w+=\S* )*(?:(?:srun|torchrun) .*?)?(?:python3? (?:-u )?)?'
    r'(crossformer|tools/(?:\w+\.py|dist_\w+\.sh))(?: (.*)|$)'
)
NUMBERS = ('N', 'H', 'W')  # placeholders
H, W = 64, 96
by_page = pytest.mark.parametrize('page', PAGES, ids=lambda page: page.stem)


def example(word: str, page: Path = README) -> str:
    """The one Python example of a page that contains a word."""
    (found,) = [code for code in PYTHON.findall(TEXTS[page]) if word in code]
    return found


# ---- examples --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ('toolbox', 'page', 'base', 'size'),
    [
        ('mmdet', README, "'mmdet::", (H, W)),
        ('mmseg', README, "'./configs/", (H, W)),
        pytest.param(
            'mmdet', ROOT / 'docs' / 'your_config.md', "'mmdet::dino/", (224, 224), marks=pytest.mark.slow
        ),
    ],
    ids=['mask_rcnn', 'semantic_fpn', 'dino'],
)
def test_backbone_in_a_config_of_a_toolbox(
    toolbox: str,
    page: Path,
    base: str,
    size: tuple[int, int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The model builds, starts from the weights that the config names, and predicts."""
    monkeypatch.chdir(tmp_path)
    weights = CrossFormer('s').state_dict()
    torch.save({'model': weights}, 'crossformer-s.pth')
    Path('configs').symlink_to(
        Path(mmseg.__file__).parent / '.mim' / 'configs'
    )  # as in MMSegmentation's clone
    Path('example.py').write_text(example(base, page))
    model, cfg = build('example.py')
    assert cfg.default_scope == toolbox
    assert cfg.optim_wrapper.optimizer == dict(type='AdamW', lr=1e-4, weight_decay=1e-4)
    model.init_weights()
    assert all(torch.equal(value, weights[name]) for name, value in model.backbone.state_dict().items())

    sample = DetDataSample() if toolbox == 'mmdet' else SegDataSample()
    sample.set_metainfo(dict(img_shape=size, ori_shape=size, pad_shape=size, scale_factor=(1.0, 1.0)))
    image = torch.randint(0, 256, (3, *size), dtype=torch.uint8)
    with torch.no_grad():
        (output,) = model.eval().test_step(dict(inputs=[image], data_samples=[sample]))
    assert 'pred_instances' in output if toolbox == 'mmdet' else output.pred_sem_seg.shape == size


def build(config: str) -> tuple[nn.Module, Config]:
    cfg = Config.fromfile(config)
    init_default_scope(cfg.default_scope)
    return MODELS.build(cfg.model), cfg


def test_channels_of_each_arch() -> None:
    """The table of the neck's ``in_channels`` has every arch with the channels that the network returns."""
    rows = re.findall(r'^\| (`.*`) \| `(\[[\d, ]+\])` \|$', TEXTS[README], re.MULTILINE)
    archs = [arch for names, _ in rows for arch in re.findall(r'`(\w+)`', names)]
    assert sorted(archs) == sorted(['t', 's', 'b', 'l', 'pp_s', 'pp_b', 'pp_l', 'pp_h'])
    with torch.device('meta'):
        for names, channels in rows:
            for arch in re.findall(r'`(\w+)`', names):
                assert CrossFormer(arch).out_channels == tuple(ast.literal_eval(channels)), arch


def test_backbone_in_python(capsys: pytest.CaptureFixture[str]) -> None:
    exec(example('from crossformer_mm import CrossFormer'), {})
    assert capsys.readouterr().out.startswith('[(1, 96, 107, 160), (1, 192, 54, 80)')


def test_inferencer_in_python(
    narrow_config: Callable[[str], Config], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has the classes of the checkpoint, and writes a picture of each image."""
    code = example('open_inferencer')
    monkeypatch.chdir(tmp_path)
    cfg = narrow_config('mask_rcnn_crossformer_s')
    cfg.dump('config.py')
    init_default_scope('mmdet')
    set_num_classes(cfg.model, 2)
    meta = {'dataset_meta': {'classes': ('apple', 'nut')}}
    torch.save({'state_dict': MODELS.build(cfg.model).state_dict(), 'meta': meta}, 'checkpoint.pth')
    Path('photos').mkdir()
    for name in ('a', 'b'):
        cv2.imwrite(f'photos/{name}.jpg', np.zeros((48, 64, 3), np.uint8))
    names: dict[str, Any] = {}
    exec(code, names)
    assert names['inferencer'].model.dataset_meta['classes'] == ('apple', 'nut')
    assert [set(p) for p in names['results']['predictions']] == [{'labels', 'scores', 'bboxes', 'masks'}] * 2
    assert sorted(path.name for path in Path('predictions/vis').iterdir()) == ['a.jpg', 'b.jpg']


@by_page
def test_imports_of_examples(page: Path) -> None:
    for code in PYTHON.findall(TEXTS[page]):
        imports = [node for node in ast.parse(code).body if isinstance(node, ast.Import | ast.ImportFrom)]
        exec(compile(ast.Module(imports, []), page.name, 'exec'), {})


# ---- command lines ---------------------------------------------------------------------------------


class Parsed(BaseException):
    """Raised instead of running a tool after it has parsed its command line."""


def parse(script: Path, words: list[str]) -> None:
    """Give a command line to a script's own parser.

    Raises:
        SystemExit: The parser refuses it, or was asked for ``--help``.
    """
    parse_args = argparse.ArgumentParser.parse_args

    def parse_and_stop(*args: Any, **kwargs: Any) -> None:
        parse_args(*args, **kwargs)
        raise Parsed

    with (
        patch.object(sys, 'argv', [str(script), *words]),
        patch.object(argparse.ArgumentParser, 'parse_args', parse_and_stop),
        pytest.raises(Parsed),
    ):
        runpy.run_path(str(script), run_name='__main__')


@functools.cache
def options_of(command: str) -> set[str]:
    """The options that a tool's help lists."""
    script, words = split(command)
    with redirect_stdout(io.StringIO()) as output, pytest.raises(SystemExit):
        parse(script, [*words, '--help'])
    return set(re.findall(r'--[\w-]+', output.getvalue()))


def split(command: str) -> tuple[Path, list[str]]:
    """The script that a command line runs, and its arguments, without the marks of optional ones."""
    tool, words = COMMAND.match(command).groups()
    words = [word.strip('[]…') for word in shlex.split(words or '', comments=True)]
    words = ['1' if word in NUMBERS else word for word in words if word]
    if tool == 'crossformer':
        return ROOT / 'crossformer_mm_command.py', words
    if tool.endswith('.sh'):  # CONFIG [CHECKPOINT] PROCESSES [options]
        del words[2 if 'test' in tool else 1]
        tool = tool.replace('dist_', '').replace('.sh', '.py')
    return ROOT / tool, words


def command_lines(text: str) -> Iterator[str]:
    """The command lines in code blocks that run one of our tools."""
    fenced = False
    for line in text.replace('\\\n', ' ').splitlines():
        fenced ^= line.startswith('```')
        if (fenced or line.startswith('    ')) and COMMAND.match(line.strip()):
            yield line.strip()


@pytest.mark.parametrize('command', [line for page in PAGES for line in command_lines(TEXTS[page])])
def test_command_lines_parse(command: str) -> None:
    script, words = split(command)
    if words:  # "crossformer" by itself prints the commands
        parse(script, words)


@by_page
def test_options_in_the_text_exist(page: Path) -> None:
    """Options in the text (``tool --option``) and in the first column of tables."""
    for span in re.findall(r'`([^`\n]+)`', TEXTS[page]):
        if tool := re.match(r'(?:python3? )?(?:crossformer \w+|tools/\w+\.py)(?= )', span):
            assert set(re.findall(r' (--[\w-]+)', span)) <= options_of(tool[0]), span
    known = set().union(*(options_of(f'tools/{tool.name}') for tool in ROOT.glob('tools/*.py')))
    for row in re.findall(r'^\| `--.*?\|', TEXTS[page], re.MULTILINE):
        assert set(re.findall(r'--[\w-]+', row)) <= known, row


@by_page
def test_make_targets_exist(page: Path) -> None:
    targets = re.findall(r'^([a-z-]+):', (ROOT / 'Makefile').read_text(), re.MULTILINE)
    named = re.findall(r'(?:^ *|`)make ([a-z-]+)(?=[` ])', TEXTS[page], re.MULTILINE)
    assert set(named) <= set(targets)


# ---- references ------------------------------------------------------------------------------------


@by_page
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r'^```.*?^```|`[^`\n]*`', '', TEXTS[page], flags=re.DOTALL | re.MULTILINE)
    for target in re.findall(r'\]\(([^)\s]+)\)', text):
        if not target.startswith('http'):
            name, _, anchor = target.partition('#')
            path = (page.parent / name).resolve() if name else page
            assert path.exists(), target
            assert not anchor or anchor in anchors(path), target


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub generates for the headings of a page."""
    headings = re.findall(r'^#+ (.*)', page.read_text(encoding='utf-8'), re.MULTILINE)
    return {re.sub(r'[^\w\- ]', '', heading.lower()).replace(' ', '-') for heading in headings}


@by_page
def test_named_tests_exist(page: Path) -> None:
    """As ``test_file.py``, ``test_file.py::test_name`` or ``test_name``; … stands for any letters."""
    names = {
        f'{file.name}::{name}'
        for file in (ROOT / 'tests').glob('**/test_*.py')
        for name in re.findall(r'^ *def (test_\w+)', file.read_text(encoding='utf-8'), re.MULTILINE)
    }
    for span in re.findall(r'`((?:tests/)?…?test_(?!cfg)[\w.:…]+)`', TEXTS[page]):
        pattern = span.removeprefix('tests/').replace('…', '*')
        pattern = f'{pattern}::*' if pattern.endswith('.py') else pattern
        pattern = pattern if '::' in pattern else f'*::{pattern}'
        assert any(fnmatch(name, pattern) for name in names), span
