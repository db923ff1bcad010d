"""The layout implied by a file's origin, which is recognised from its configs, notes and tensor names."""

from pathlib import Path
from typing import Any

import pytest
import torch

from crossformer_mm import CrossFormer
from crossformer_mm.checkpoint.load import compare_layouts
from crossformer_mm.checkpoint.meta import BACKBONE_NOTES, NOTES, implied_layout
from crossformer_mm.checkpoint.reader import Checkpoint

NAMES = ('patch_embed.norm.bias', 'layers.0.blocks.0.attn.qkv.bias')
COOLED = (*NAMES, 'layers.2.blocks.2.ex_conv.bias')
OLDEST = (*NAMES, 'layers.0.blocks.0.attn.biases')
AUTHORS = "model = dict(backbone=dict(type='CrossFormer_S', group_size=[7, 7, 7, 7]{}))"


def checkpoint(names: tuple[str, ...], *heads: str, prefix: str = '', **meta: Any) -> dict[str, Any]:
    return {
        'state_dict': {name: torch.ones(1) for name in [*(prefix + n for n in names), *heads]},
        'meta': meta,
    }


def detector(names: tuple[str, ...] = NAMES, **meta: Any) -> dict[str, Any]:
    return checkpoint(names, 'rpn_head.a', prefix='backbone.', **meta)


@pytest.mark.parametrize(
    ('file', 'layouts'),
    [
        # by the config
        (detector(config=AUTHORS.format('')), ['map']),
        (detector(config='raise SystemExit\n' + AUTHORS.format('')), ['map']),
        (detector(config=AUTHORS.format(', adaptive_interval=False')), ['window']),
        (detector(config='{"type": "CrossFormer_B2", "adaptive_interval": false}'), ['window']),
        (detector(config=AUTHORS.format(", long_distance='window'")), ['window']),
        (detector(cfg="dict(arch='s', long_distance='map', type='CrossFormer')"), ['map']),
        (detector(cfg="dict(adaptive_intervals=True, type='CrossFormer')"), ['window']),
        (detector(cfg="dict(adaptive_intervals=False, type='CrossFormer')"), []),
        (detector(cfg="dict(arch='s', type='CrossFormer')"), []),
        (detector(cfg=AUTHORS.format('')), []),  # run by this package
        (detector(config={'type': 'CrossFormer_S'}), []),
        # by the notes
        (detector(crossformer_mm={'long_distance': 'window'}, config=AUTHORS.format('')), ['window']),
        (detector(crossformer_mm={'long_distance': ['window']}, config=AUTHORS.format('')), ['window']),
        (detector(crossformer_mm={'long_distance': ['map', 'window']}), ['map', 'window']),
        (detector(crossformer_mm={'long_distance': [['map']]}, config=AUTHORS.format('')), ['map']),
        (detector(crossformer_mm={'long_distance': []}, config=AUTHORS.format('')), ['map']),
        (detector(crossformer_mm={'arch': 's'}), []),
        # by the tensors' names
        (detector(OLDEST), ['map']),
        (detector(), []),
        (detector(COOLED), []),
        (checkpoint(NAMES), []),
        (checkpoint(NAMES, 'norm.bias', 'head.bias'), ['map', 'window']),
        (checkpoint(OLDEST, 'norm.bias', 'head.bias'), ['map', 'window']),
        (checkpoint(COOLED, 'norm.bias', 'head.bias'), ['window']),
        (checkpoint(COOLED, 'head.fc.bias', prefix='backbone.'), []),  # another toolbox's
        ({**detector(), 'meta': None}, []),
    ],
)
def test_layout(file: dict[str, Any], layouts: list[str]) -> None:
    implied = implied_layout(file)
    assert list(implied.layouts) == layouts
    assert str(implied).startswith(' or '.join(layouts) or 'unknown')


def test_other_groups_than_in_training_are_named(logged: list[str]) -> None:
    model = CrossFormer({'embed_dims': 16, 'depths': (1, 1, 1, 1), 'num_heads': (1, 1, 1, 1)})
    noted = {**model.settings, 'group_sizes': (14, 14, 7, 7), 'intervals': [8, 4, 2, 1]}
    meta = {NOTES: {'long_distance': 'map', BACKBONE_NOTES: noted}}
    compare_layouts(model, Checkpoint({'state_dict': model.state_dict(), 'meta': meta}, Path('a.pth')))
    (line,) = logged
    assert 'trained with group_sizes=[14, 14, 7, 7], but the model has [7, 7, 7, 7], which' in line
    assert line.endswith('set model.backbone.group_sizes=[14,14,7,7]')
